// From aclTensor to what the computing code works on.
#pragma once

#include <ATen/core/Tensor.h>

#include "opapi/objects.h"

namespace hostcann::opapi {

// A CPU tensor over the same memory, without a copy; undefined for nullptr. The memory must outlive it.
at::Tensor view(const aclTensor* tensor);

// Calls `function` with a value of the C++ type that stands for a floating dtype: float, c10::Half or c10::BFloat16.
template <typename Function>
void for_float_type(DataType dtype, Function&& function) {
  switch (dtype) {
    case kFloat: function(float{}); return;
    case kFloat16: function(c10::Half{}); return;
    default: function(c10::BFloat16{}); return;
  }
}

}  // namespace hostcann::opapi
