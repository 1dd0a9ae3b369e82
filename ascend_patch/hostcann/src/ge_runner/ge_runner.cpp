// The graph engine. torch-npu links the library; only TorchAir (graph mode through GE) calls into it, and that refuses to
// load because its C++ symbols are missing here.
#include "hostcann/acl_types.h"

ACL_API int hostcann_ge_runner() { return 0; }
