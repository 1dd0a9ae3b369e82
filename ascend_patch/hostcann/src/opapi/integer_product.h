// Products of int8 matrices, exactly.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>

#include <algorithm>

namespace hostcann::opapi {

// int32 [rows, columns] of int8 [rows, depth] and int8 [depth, columns]; depth is at least 1.
inline at::Tensor integer_product(const at::Tensor& x1, const at::Tensor& x2) {
  // float32 holds every sum of this many products of int8 exactly: 1024 * 128 * 128 is 2^24.
  constexpr int64_t kExact = 1024;
  at::Tensor sum;
  for (int64_t begin = 0; begin < x1.size(1); begin += kExact) {
    const int64_t end = std::min(begin + kExact, x1.size(1));
    const at::Tensor part =
        at::mm(x1.slice(1, begin, end).to(at::kFloat), x2.slice(0, begin, end).to(at::kFloat)).to(at::kInt);
    sum = sum.defined() ? sum.add_(part) : part;
  }
  return sum;
}

}  // namespace hostcann::opapi
