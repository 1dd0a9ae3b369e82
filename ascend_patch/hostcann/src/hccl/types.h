// Data types, reductions and functions of HCCL, and which of them the documentation allows on which SoC.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transfer.h"

namespace hostcann::hccl {

// Order and names as in types.cpp.
enum class Function : uint32_t {
  kAllReduce,
  kReduce,
  kReduceScatter,
  kReduceScatterV,
  kBroadcast,
  kScatter,
  kAllGather,
  kAllGatherV,
  kAlltoAll,
  kAlltoAllV,
  kAlltoAllVC,
  kSend,
  kRecv,
  kBatchSendRecv,
  kBarrier,
  kDispatch,  // of operators that communicate on their own
  kCombine,
  kMatmulAllReduce,
};

// "HcclAllReduce".
const char* function_name(uint32_t function);
inline const char* function_name(Function function) { return function_name(static_cast<uint32_t>(function)); }

// "float16"; the number if it is unknown.
const char* data_type_name(int data_type);

// Bytes of one element of an HcclDataType; 0 if the type is unknown.
size_t element_bytes(int data_type);

// kOk if the documentation lists the data type (and the operation, -1 for none) for the function on this SoC; else
// the code, with a recorded message.
int check_support(Function function, int data_type, int operation);

// The arithmetic of an HcclReduceOp on a type; null if there is none. float16 and bfloat16 compute in float and round
// after every operation, as the reduction on the way of a copy does.
Reduction find_reduction(int data_type, int operation);

}  // namespace hostcann::hccl
