// Matrix products of few rows in half and bfloat16.
#pragma once

#include <ATen/core/Tensor.h>

namespace hostcann::aten {

// Above this many rows the CPU's matrix library, which converts the weight once, is faster.
constexpr int64_t kNarrowRows = 64;

// Whether narrow_matmul computes x @ transposed_weight: CPU tensors of half or bfloat16, x contiguous [..., depth] with
// few rows, the weight [depth, columns] a transposed view of contiguous memory (as torch.nn.functional.linear passes it).
bool suits_narrow_matmul(const at::Tensor& x, const at::Tensor& transposed_weight);

// x @ transposed_weight as [..., columns], accumulated in float32 and rounded once.
at::Tensor narrow_matmul(const at::Tensor& x, const at::Tensor& transposed_weight);

}  // namespace hostcann::aten
