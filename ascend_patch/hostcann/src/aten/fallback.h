// The boxed kernel that runs an aten operator of NPU tensors with its CPU kernel.
#pragma once

#include <ATen/core/boxing/KernelFunction.h>

#include <memory>
#include <optional>

#include "plan.h"

namespace hostcann::aten {

class Fallback final : public c10::OperatorKernel {
 public:
  // Takes torch-npu's own kernel along: to be made before that is replaced.
  explicit Fallback(const c10::OperatorHandle& handle);
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, torch::jit::Stack* stack);

 private:
  bool run_on_private_formats(const c10::OperatorHandle& handle, torch::jit::Stack* stack) const;

  OperatorPlan plan_;
  std::optional<c10::SafeKernelFunction> of_torch_npu_;  // of products and clone, for FRACTAL_NZ
};

// torch-npu's own kernel for `item()`, which reads where sizes and strides say: of a tensor in a private format, a copy.
class ReadNumber final : public c10::OperatorKernel {
 public:
  explicit ReadNumber(const c10::OperatorHandle& handle)
      : of_torch_npu_(handle.getComputedKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) {}
  void operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, torch::jit::Stack* stack);

 private:
  c10::SafeKernelFunction of_torch_npu_;
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
