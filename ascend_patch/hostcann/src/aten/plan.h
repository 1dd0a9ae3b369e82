// What the fallback must know about one operator, worked out once from its schema.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>
#include <vector>

namespace hostcann::aten {

enum class ArgumentKind : uint8_t { kTensor, kTensorList, kOptionalTensorList, kDevice, kGenerator };

struct ArgumentPlan {
  uint16_t index;     // position among the arguments
  ArgumentKind kind;
  bool written;       // in-place or out argument
};

struct ReturnPlan {
  enum Kind : uint8_t { kOther, kTensor, kTensorList } kind;
  int16_t argument;  // the written argument that is returned; -1: something new
};

// Products whose arguments are (x, weight^T), (x, weight, bias) and (bias, x, weight^T, beta, alpha).
enum class Product : uint8_t { kNone, kMatmul, kLinear, kAddmm };

struct OperatorPlan {
  explicit OperatorPlan(const c10::OperatorHandle& handle);

  c10::OperatorHandle handle;
  std::string name;      // "add.Tensor"
  uint16_t arguments;
  uint16_t returns;
  std::vector<ArgumentPlan> interesting;  // tensors, lists, devices and generators, in order
  std::vector<ReturnPlan> results;
  bool random;           // draws random numbers
  bool synchronises;     // the result's shape or value is needed on the host
  bool floats_only;      // the NPU has it for float, float16 and bfloat16 only
  bool cpu_indices;      // index tensors may be on the CPU
  bool has_meta;         // shapes can be computed without data
  bool view;             // gives another view of what it gets, and neither reads nor writes
  Product product;       // which form of matrix product, if it is one
};

}  // namespace hostcann::aten
