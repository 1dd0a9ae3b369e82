// The graph construction library of GE. Linked by torch-npu, called by TorchAir only (see ge_runner).
#include "hostcann/acl_types.h"

ACL_API int hostcann_graph() { return 0; }
