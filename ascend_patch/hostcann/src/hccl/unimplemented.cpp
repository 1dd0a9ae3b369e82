// Functions of libhccl that torch-npu looks up by name and that hostcann does not implement; each fails with its name.
#include "communicator.h"

#define HOSTCANN_UNIMPLEMENTED(function)                                                                \
  ACL_API int function() {                                                                              \
    return hostcann::hccl::refuse(hostcann::hccl::kNotSupported, #function, "not implemented in hostcann yet"); \
  }

HOSTCANN_UNIMPLEMENTED(HcclCommActivateCommMemory)
HOSTCANN_UNIMPLEMENTED(HcclCommDeactivateCommMemory)
HOSTCANN_UNIMPLEMENTED(HcclCommDeregister)
HOSTCANN_UNIMPLEMENTED(HcclCommExchangeMem)
HOSTCANN_UNIMPLEMENTED(HcclCommInitRootInfoScalable)
HOSTCANN_UNIMPLEMENTED(HcclCommRegister)
HOSTCANN_UNIMPLEMENTED(HcclCommSetMemoryRange)
HOSTCANN_UNIMPLEMENTED(HcclCommSymWinDeregister)
HOSTCANN_UNIMPLEMENTED(HcclCommSymWinRegister)
HOSTCANN_UNIMPLEMENTED(HcclCommUnsetMemoryRange)
HOSTCANN_UNIMPLEMENTED(HcclCommWorkingDevNicSet)
HOSTCANN_UNIMPLEMENTED(HcclGetRootInfoScalable)
