#include "hostcann/runtime.h"
ACL_API const char* hostcann_aten_install() { return nullptr; }
