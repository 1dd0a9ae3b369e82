// Data channels between host and device (data sets, dumps). Linked by torch-npu's tensorpipe, not used by it.
#include "hostcann/runtime.h"

ACL_API void* acltdtCreateChannelWithCapacity() {
  hostcann::unimplemented("acltdtCreateChannelWithCapacity");
  return nullptr;
}
