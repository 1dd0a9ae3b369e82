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

// For operators to which torch-npu gives an autograd kernel of its own, which calls NPU kernels directly: goes to the
// fallback where no gradient is needed, else through PyTorch's own autograd kernel or decomposition.
class AutogradBypass final : public c10::OperatorKernel {
 public:
  explicit AutogradBypass(const c10::OperatorHandle& handle) : arguments_(handle.schema().arguments().size()) {}
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, torch::jit::Stack* stack);

 private:
  size_t arguments_;
};

}  // namespace hostcann::aten
