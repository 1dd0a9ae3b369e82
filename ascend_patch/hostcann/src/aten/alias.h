// NPU tensors as CPU tensors over the same memory, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include "torch_npu_abi.h"

namespace hostcann::aten {

inline bool is_npu(const at::TensorBase& tensor) { return tensor.defined() && tensor.device().type() == kNpu; }

// A CPU tensor with the values and sizes of `tensor`, which is in FRACTAL_NZ: a copy, in no other format.
at::Tensor plain_values(const at::Tensor& tensor, const StorageDescription& description);

// Puts the values of a CPU tensor into all of `tensor`, which is in FRACTAL_NZ.
void set_plain_values(const at::Tensor& tensor, const StorageDescription& description, const at::Tensor& values);

// A CPU tensor with the sizes, strides and offset of `tensor` over its memory; valid while `tensor` lives.
at::Tensor cpu_alias(const at::Tensor& tensor);

// Turns a CPU tensor into an NPU tensor. Memory that was allocated inside a Redirect is taken over, other memory is
// copied. `result` must be the only owner of its storage for the former.
at::Tensor adopt(at::Tensor result, c10::Device device);

// An NPU tensor over the storage of `base` with the geometry and dtype of `view`, a CPU view of base's alias.
at::Tensor view_of(const at::Tensor& base, const at::Tensor& view);

}  // namespace hostcann::aten
