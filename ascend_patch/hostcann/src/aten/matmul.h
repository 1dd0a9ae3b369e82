// Matrix products in half and bfloat16.
#pragma once

#include <ATen/core/Tensor.h>

namespace hostcann::aten {

// Whether linear_matmul computes x @ transposed_weight: CPU tensors of half or bfloat16, x contiguous [..., depth], the
// weight [depth, columns] a transposed view of contiguous memory (as torch.nn.functional.linear passes it).
bool suits_linear_matmul(const at::Tensor& x, const at::Tensor& transposed_weight);

// x @ transposed_weight as [..., columns], accumulated in float32 and rounded once.
at::Tensor linear_matmul(const at::Tensor& x, const at::Tensor& transposed_weight);

}  // namespace hostcann::aten
