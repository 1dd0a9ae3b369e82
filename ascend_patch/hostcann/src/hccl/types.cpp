// Source: "HCCL API reference" of CANN 8.5, the sections on data types and operations of each function.
#include "types.h"

#include <iterator>
#include <string>

#include "communicator.h"

namespace hostcann::hccl {
namespace {

struct TypeEntry {
  const char* name;
  size_t bytes;
};

// By HcclDataType; 13 is not used.
constexpr TypeEntry kTypes[] = {
    {"int8", 1},   {"int16", 2},   {"int32", 4},   {"float16", 2},  {"float32", 4},     {"int64", 8},
    {"uint64", 8}, {"uint8", 1},   {"uint16", 2},  {"uint32", 4},   {"float64", 8},     {"bfp16", 2},
    {"int128", 16}, {nullptr, 0},  {"hifloat8", 1}, {"float8-e4m3", 1}, {"float8-e5m2", 1}, {"float8-e8m0", 1},
};

template <typename... Types>
constexpr uint32_t types(Types... data_types) {
  return ((uint32_t{1} << data_types) | ...);
}

constexpr uint32_t kPlain = types(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10);  // integers of all sizes, float16, 32 and 64
constexpr uint32_t kBf16 = types(11);
constexpr uint32_t kFloat8 = types(14, 15, 16, 17);
constexpr uint32_t kReducible = types(0, 1, 2, 3, 4, 5, 11);  // int8 to int64, float16, float32, bfloat16
constexpr uint32_t kInt64 = types(5);

constexpr uint32_t operations(bool sum, bool prod, bool max, bool min) {
  return (sum ? 1u : 0u) | (prod ? 2u : 0u) | (max ? 4u : 0u) | (min ? 8u : 0u);
}
constexpr uint32_t kAllOperations = operations(true, true, true, true);

struct Support {  // data types; 0: the SoC does not have the function
  uint32_t a2;
  uint32_t a3;
  uint32_t inference;  // 310P, "Atlas 300I Duo"
  uint32_t a5;         // 950
};

struct FunctionEntry {
  const char* name;
  Support types;
  Support operations;  // all 0: does not reduce
};

constexpr uint32_t kMoved = kPlain | kBf16;
constexpr uint32_t kReducedA5 = kReducible | types(6, 10);
constexpr Support kMovedEverywhere{kMoved, kMoved, kPlain, kMoved | kFloat8};
constexpr Support kMovedNotOn310P{kMoved, kMoved, 0, kMoved | kFloat8};
constexpr Support kFourOperations{kAllOperations, kAllOperations, kAllOperations, kAllOperations};
constexpr uint32_t kReduced310P = types(0, 1, 2, 3, 4);

constexpr FunctionEntry kFunctions[] = {
    {"HcclAllReduce", {kReducible, kReducible, kReduced310P, kReducedA5}, kFourOperations},
    {"HcclReduce", {kReducible, kReducible, 0, kReducedA5}, kFourOperations},
    {"HcclReduceScatter", {kReducible, kReducible, kReduced310P, kReducedA5}, kFourOperations},
    {"HcclReduceScatterV",
     {kReducible & ~kInt64, kReducible, types(1, 3, 4), kReducible},
     {operations(true, false, true, true), operations(true, false, true, true), operations(true, false, false, false),
      kAllOperations}},
    {"HcclBroadcast", kMovedNotOn310P, {}},
    {"HcclScatter", kMovedNotOn310P, {}},
    {"HcclAllGather", kMovedEverywhere, {}},
    {"HcclAllGatherV", kMovedEverywhere, {}},
    {"HcclAlltoAll", kMovedEverywhere, {}},
    {"HcclAlltoAllV", kMovedEverywhere, {}},
    {"HcclAlltoAllVC", kMovedNotOn310P, {}},
    {"HcclSend", kMovedNotOn310P, {}},
    {"HcclRecv", kMovedNotOn310P, {}},
    {"HcclBatchSendRecv", kMovedNotOn310P, {}},
    {"HcclBarrier", kMovedEverywhere, {}},
    {"MoeDistributeDispatch", {}, {}},
    {"MoeDistributeCombine", {}, {}},
    {"MatmulAllReduce", {}, {}},
};

constexpr const char* kOperationNames[] = {"sum", "prod", "max", "min"};

uint32_t on_this_soc(const Support& support) {
  switch (soc().family) {
    case SocFamily::k910B: return support.a2;
    case SocFamily::k910_93: return support.a3;
    case SocFamily::k310P: return support.inference;
    case SocFamily::k950: return support.a5;
  }
  return 0;
}

// prod of int16 and bfp16 is excluded on A2, A3 and A5, everything but the sum of int16 on 310P.
bool is_excluded(int data_type, int operation) {
  constexpr int kInt16 = 1;
  constexpr int kBfp16 = 11;
  constexpr int kSum = 0;
  constexpr int kProd = 1;
  if (soc().family == SocFamily::k310P) return data_type == kInt16 && operation != kSum;
  return operation == kProd && (data_type == kInt16 || data_type == kBfp16);
}

std::string type_list(uint32_t allowed) {
  std::string text;
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if ((allowed >> i & 1) != 0) text += std::string(text.empty() ? "" : ", ") + kTypes[i].name;
  }
  return text;
}

}  // namespace

const char* function_name(uint32_t function) {
  return function < std::size(kFunctions) ? kFunctions[function].name : "an unknown function";
}

const char* data_type_name(int data_type) {
  const bool known = data_type >= 0 && static_cast<size_t>(data_type) < std::size(kTypes);
  return known && kTypes[data_type].name != nullptr ? kTypes[data_type].name : "unknown";
}

size_t element_bytes(int data_type) {
  return data_type >= 0 && static_cast<size_t>(data_type) < std::size(kTypes) ? kTypes[data_type].bytes : 0;
}

int check_support(Function function, int data_type, int operation) {
  const FunctionEntry& entry = kFunctions[static_cast<size_t>(function)];
  const uint32_t allowed = on_this_soc(entry.types);
  if (allowed == 0) return refuse(kNotSupported, entry.name, std::string(soc().name) + " does not have this function");
  if (element_bytes(data_type) == 0 || (allowed >> data_type & 1) == 0) {
    return refuse(kNotSupported, entry.name, std::string("data type ") + data_type_name(data_type) + " (" +
                                                 std::to_string(data_type) + ") is not supported on " + soc().name +
                                                 ", which takes " + type_list(allowed));
  }
  if (operation < 0) return kOk;
  if (operation >= 4) return refuse(kNotSupported, entry.name, "unknown reduction " + std::to_string(operation));
  if ((on_this_soc(entry.operations) >> operation & 1) == 0 || is_excluded(data_type, operation)) {
    return refuse(kNotSupported, entry.name, std::string("reduction ") + kOperationNames[operation] + " of " +
                                                 data_type_name(data_type) + " is not supported on " + soc().name);
  }
  return kOk;
}

}  // namespace hostcann::hccl
