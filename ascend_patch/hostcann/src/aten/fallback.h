// The boxed kernel that runs an aten operator of NPU tensors with its CPU kernel.
#pragma once

#include <ATen/core/boxing/KernelFunction.h>

#include <memory>

#include "plan.h"

namespace hostcann::aten {

class Fallback final : public c10::OperatorKernel {
 public:
  explicit Fallback(const c10::OperatorHandle& handle) : plan_(handle) {}
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, torch::jit::Stack* stack);

 private:
  OperatorPlan plan_;
};

}  // namespace hostcann::aten
