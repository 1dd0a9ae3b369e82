// Matrix products in half and bfloat16, exported by libopapi.so.
#pragma once

#include <ATen/core/Tensor.h>

#include "hostcann/acl_types.h"

namespace hostcann {

// Whether linear_matmul computes x @ weight^T + bias: CPU tensors of half or bfloat16, x contiguous [..., depth], the
// weight contiguous [columns, depth], the bias [columns] or undefined.
HOSTCANN_API bool suits_linear_matmul(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// x @ weight^T + bias as [..., columns], accumulated in float32 and rounded once.
HOSTCANN_API at::Tensor linear_matmul(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace hostcann
