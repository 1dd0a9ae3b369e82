// Matrix products in half and bfloat16.
#pragma once

#include <ATen/core/Tensor.h>

namespace hostcann::aten {

// Whether linear_matmul computes x @ weight^T + bias: CPU tensors of half or bfloat16, x contiguous [..., depth], the
// weight contiguous [columns, depth], the bias [columns] or undefined.
bool suits_linear_matmul(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// x @ weight^T + bias as [..., columns], accumulated in float32 and rounded once.
at::Tensor linear_matmul(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace hostcann::aten
