// From aclTensor to what the computing code works on.
#pragma once

#include <ATen/core/Tensor.h>

#include "opapi/objects.h"

namespace hostcann::opapi {

// A CPU tensor over the same memory, without a copy; undefined for nullptr. The memory must outlive it.
at::Tensor view(const aclTensor* tensor);

// Whether the last two dimensions lie in memory as their transpose, without gaps.
bool is_transposed(const aclTensor& tensor);

// Whether the tensor is in FRACTAL_NZ and all of its matrices, as they are or transposed.
bool is_fractal_nz(const aclTensor& tensor);

// What from_tiles needs of such a tensor when the operator runs.
struct Tiles {
  const void* data;
  std::vector<int64_t> shape;  // of the matrices in memory; empty where the tensor is none of both
  DataType dtype;
  bool transposed;             // whether the tensor is their transpose
};
Tiles tiles(const aclTensor& tensor);

// What the tiles hold, in the shape of the tensor: a copy that lies in memory as the matrices did before the cast.
at::Tensor from_tiles(const Tiles& tiles);

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
