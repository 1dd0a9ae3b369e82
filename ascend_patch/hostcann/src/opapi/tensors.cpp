#include "opapi/tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <stdexcept>

#include "hostcann/fractal_nz.h"

namespace hostcann::opapi {
namespace {

at::ScalarType scalar_type(DataType dtype) {
  switch (dtype) {
    case kFloat: return at::kFloat;
    case kFloat16: return at::kHalf;
    case kBf16: return at::kBFloat16;
    case kDouble: return at::kDouble;
    case kInt8: return at::kChar;
    case kUint8: return at::kByte;
    case kInt16: return at::kShort;
    case kInt32: return at::kInt;
    case kInt64: return at::kLong;
    case kBool: return at::kBool;
    default: throw std::runtime_error(std::string("hostcann: no CPU type for ") + dtype_name(dtype));
  }
}

}  // namespace

bool is_transposed(const aclTensor& tensor) {
  const size_t dims = tensor.shape.size();
  if (dims < 2 || tensor.strides[dims - 2] != 1) return false;
  int64_t expected = 1;
  for (size_t i = dims; i-- > 0;) {
    const size_t dim = i == dims - 1 ? dims - 2 : i == dims - 2 ? dims - 1 : i;
    if (tensor.shape[dim] != 1 && tensor.strides[dim] != expected) return false;
    expected *= tensor.shape[dim];
  }
  return true;
}

bool is_fractal_nz(const aclTensor& tensor) {
  return tensor.format == kFractalNz && has_fractal_nz(tensor.dtype) && tensor.shape.size() >= 2 && tensor.offset == 0 &&
         !tiles(tensor).shape.empty();
}

Tiles tiles(const aclTensor& tensor) {
  const auto item = static_cast<int64_t>(element_size(tensor.dtype));
  std::vector<int64_t> shape = tensor.shape;
  // Both hold for a matrix of one row or column: the memory decides.
  if (is_contiguous(tensor) && tensor.storage_shape == fractal_nz_shape(shape, item)) {
    return {tensor.data, shape, tensor.dtype, false};
  }
  std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
  const bool fits = is_transposed(tensor) && tensor.storage_shape == fractal_nz_shape(shape, item);
  return {tensor.data, fits ? shape : std::vector<int64_t>(), tensor.dtype, true};
}

at::Tensor from_tiles(const Tiles& tiles) {
  at::Tensor result = at::empty(tiles.shape, at::TensorOptions().dtype(scalar_type(tiles.dtype)));
  from_fractal_nz(tiles.data, result.mutable_data_ptr(), tiles.shape, static_cast<int64_t>(element_size(tiles.dtype)));
  return tiles.transposed ? result.transpose(-2, -1) : result;
}

at::Tensor view(const aclTensor* tensor) {
  if (tensor == nullptr) return {};
  if (is_private(tensor->format)) throw std::runtime_error("hostcann: tiles read as a plain matrix: " + describe(*tensor));
  return at::from_blob(first_element(*tensor), tensor->shape, tensor->strides,
                       at::TensorOptions().dtype(scalar_type(tensor->dtype)));
}

}  // namespace hostcann::opapi
