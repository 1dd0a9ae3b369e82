#include "opapi/tensors.h"

#include <ATen/ops/from_blob.h>

#include <stdexcept>

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

at::Tensor view(const aclTensor* tensor) {
  if (tensor == nullptr) return {};
  return at::from_blob(first_element(*tensor), tensor->shape, tensor->strides,
                       at::TensorOptions().dtype(scalar_type(tensor->dtype)));
}

}  // namespace hostcann::opapi
