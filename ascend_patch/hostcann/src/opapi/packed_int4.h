// Numbers of four bits, eight in an int32.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/where.h>

namespace hostcann::opapi {

constexpr int64_t kPackedInt4 = 8;

// int32 [..., 8 * n], -8 to 7, from int32 [..., n]; the first number is in the lowest bits.
inline at::Tensor unpacked_int4(const at::Tensor& packed) {
  const at::Tensor shifts = at::arange(0, 4 * kPackedInt4, 4, packed.options());
  const at::Tensor bits = packed.unsqueeze(-1).bitwise_right_shift(shifts).bitwise_and(15);
  return at::where(bits.gt(7), bits.sub(16), bits).flatten(-2);
}

}  // namespace hostcann::opapi
