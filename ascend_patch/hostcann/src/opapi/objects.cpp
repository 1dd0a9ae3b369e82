#include "opapi/objects.h"

#include <algorithm>
#include <cstring>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "hostcann/fractal_nz.h"
#include "hostcann/runtime.h"

namespace hostcann::opapi {

size_t element_size(DataType dtype) {
  switch (dtype) {
    case kInt8: case kUint8: case kBool: case kHifloat8: case kFloat8E5m2: case kFloat8E4m3: case kFloat8E8m0:
      return 1;
    case kFloat16: case kBf16: case kInt16: case kUint16:
      return 2;
    case kFloat: case kInt32: case kUint32: case kComplex32:
      return 4;
    case kDouble: case kInt64: case kUint64: case kComplex64:
      return 8;
    case kComplex128:
      return 16;
    default:
      return 0;
  }
}

const char* dtype_name(DataType dtype) {
  switch (dtype) {
    case kFloat: return "float32";
    case kFloat16: return "float16";
    case kBf16: return "bfloat16";
    case kDouble: return "float64";
    case kInt8: return "int8";
    case kUint8: return "uint8";
    case kInt16: return "int16";
    case kUint16: return "uint16";
    case kInt32: return "int32";
    case kUint32: return "uint32";
    case kInt64: return "int64";
    case kUint64: return "uint64";
    case kBool: return "bool";
    case kInt4: return "int4";
    case kComplex32: return "complex32";
    case kComplex64: return "complex64";
    case kComplex128: return "complex128";
    case kHifloat8: return "hifloat8";
    case kFloat8E5m2: return "float8_e5m2";
    case kFloat8E4m3: return "float8_e4m3fn";
    case kFloat8E8m0: return "float8_e8m0";
    default: return "unknown type";
  }
}

int64_t element_count(const aclTensor& tensor) {
  int64_t count = 1;
  for (int64_t size : tensor.shape) count *= size;
  return count;
}

bool is_contiguous(const aclTensor& tensor) {
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] == 0) return true;
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

void* first_element(const aclTensor& tensor) {
  return static_cast<char*>(tensor.data) + tensor.offset * static_cast<int64_t>(element_size(tensor.dtype));
}

size_t span_bytes(const aclTensor& tensor) {
  if (element_count(tensor) == 0) return 0;
  if (is_private(tensor.format)) {
    size_t bytes = element_size(tensor.dtype);
    for (const int64_t size : tensor.storage_shape) bytes *= static_cast<size_t>(size);
    return bytes;
  }
  int64_t last = 0;
  for (size_t i = 0; i < tensor.shape.size(); ++i) last += (tensor.shape[i] - 1) * tensor.strides[i];
  return static_cast<size_t>(last + 1) * element_size(tensor.dtype);
}

std::string describe(const std::vector<int64_t>& values) {
  std::string text = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i) text += ", ";
    if (i == 16) {
      text += "... " + std::to_string(values.size()) + " values";
      break;
    }
    text += std::to_string(values[i]);
  }
  return text + "]";
}

std::string describe(const aclTensor& tensor) {
  std::string text = std::string(dtype_name(tensor.dtype)) + " " + describe(tensor.shape);
  if (!is_contiguous(tensor)) text += " with strides " + describe(tensor.strides);
  if (tensor.format == kFractalNz) text += " in FRACTAL_NZ, memory " + describe(tensor.storage_shape);
  if (is_private(tensor.format) && tensor.format != kFractalNz) text += " in format " + std::to_string(tensor.format);
  return text;
}

namespace {

aclError copy_dims(const std::vector<int64_t>& values, int64_t** dims, uint64_t* count) {
  if (dims == nullptr || count == nullptr) return kAclnnNullPointer;
  *count = values.size();
  *dims = new int64_t[values.size()];  // the caller deletes it, as documented for aclGetViewShape
  std::copy(values.begin(), values.end(), *dims);
  return kSuccess;
}

template <typename T>
T read(const void* value) {
  T result;
  std::memcpy(&result, value, sizeof result);
  return result;
}

template <typename List>
aclError size_of(const List* list, uint64_t* size) {
  if (list == nullptr || size == nullptr) return kAclnnNullPointer;
  *size = list->values.size();
  return kSuccess;
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclTensor* aclCreateTensor(const int64_t* view_dims, uint64_t view_dim_count, int dtype, const int64_t* strides,
                                   int64_t offset, int format, const int64_t* storage_dims, uint64_t storage_dim_count,
                                   void* data) {
  auto* tensor = new aclTensor;
  if (view_dim_count) tensor->shape.assign(view_dims, view_dims + view_dim_count);
  if (strides != nullptr && view_dim_count) {
    tensor->strides.assign(strides, strides + view_dim_count);
  } else {
    tensor->strides.resize(view_dim_count);
    int64_t stride = 1;
    for (uint64_t i = view_dim_count; i-- > 0; stride *= view_dims[i]) tensor->strides[i] = stride;
  }
  if (storage_dim_count) tensor->storage_shape.assign(storage_dims, storage_dims + storage_dim_count);
  tensor->offset = offset;
  tensor->dtype = static_cast<DataType>(dtype);
  tensor->format = static_cast<Format>(format);
  tensor->data = data;
  return tensor;
}

ACL_API aclError aclDestroyTensor(const aclTensor* tensor) {
  delete tensor;
  return kSuccess;
}

ACL_API aclScalar* aclCreateScalar(void* value, int dtype) {
  if (value == nullptr) return nullptr;
  auto* scalar = new aclScalar;
  scalar->dtype = static_cast<DataType>(dtype);
  switch (scalar->dtype) {
    case kFloat: scalar->real = read<float>(value); break;
    case kDouble: scalar->real = read<double>(value); break;
    case kFloat16: scalar->real = read<c10::Half>(value); break;
    case kBf16: scalar->real = read<c10::BFloat16>(value); break;
    case kBool: case kUint8: scalar->integer = read<uint8_t>(value); break;
    case kInt8: scalar->integer = read<int8_t>(value); break;
    case kInt16: scalar->integer = read<int16_t>(value); break;
    case kUint16: scalar->integer = read<uint16_t>(value); break;
    case kInt32: scalar->integer = read<int32_t>(value); break;
    case kUint32: scalar->integer = read<uint32_t>(value); break;
    case kInt64: case kUint64: scalar->integer = read<int64_t>(value); break;
    default: break;  // complex scalars: no operator here takes one
  }
  return scalar;
}

ACL_API aclError aclDestroyScalar(const aclScalar* scalar) {
  delete scalar;
  return kSuccess;
}

ACL_API aclIntArray* aclCreateIntArray(const int64_t* values, uint64_t size) {
  auto* array = new aclIntArray;
  if (size) array->values.assign(values, values + size);
  return array;
}

ACL_API aclError aclDestroyIntArray(const aclIntArray* array) {
  delete array;
  return kSuccess;
}

ACL_API aclFloatArray* aclCreateFloatArray(const float* values, uint64_t size) {
  auto* array = new aclFloatArray;
  if (size) array->values.assign(values, values + size);
  return array;
}

ACL_API aclError aclDestroyFloatArray(const aclFloatArray* array) {
  delete array;
  return kSuccess;
}

ACL_API aclBoolArray* aclCreateBoolArray(const bool* values, uint64_t size) {
  auto* array = new aclBoolArray;
  if (size) array->values.assign(values, values + size);
  return array;
}

ACL_API aclError aclDestroyBoolArray(const aclBoolArray* array) {
  delete array;
  return kSuccess;
}

ACL_API aclTensorList* aclCreateTensorList(const aclTensor* const* values, uint64_t size) {
  auto* list = new aclTensorList;
  if (size) list->values.assign(values, values + size);
  return list;
}

// torch-npu destroys only the list, never its members.
ACL_API aclError aclDestroyTensorList(const aclTensorList* list) {
  if (list == nullptr) return kSuccess;
  for (const aclTensor* tensor : list->values) delete tensor;
  delete list;
  return kSuccess;
}

ACL_API aclScalarList* aclCreateScalarList(const aclScalar* const* values, uint64_t size) {
  auto* list = new aclScalarList;
  if (size) list->values.assign(values, values + size);
  return list;
}

ACL_API aclError aclDestroyScalarList(const aclScalarList* list) {
  if (list == nullptr) return kSuccess;
  for (const aclScalar* scalar : list->values) delete scalar;
  delete list;
  return kSuccess;
}

ACL_API aclError aclGetViewShape(const aclTensor* tensor, int64_t** dims, uint64_t* count) {
  return tensor == nullptr ? aclError{kAclnnNullPointer} : copy_dims(tensor->shape, dims, count);
}

ACL_API aclError aclGetStorageShape(const aclTensor* tensor, int64_t** dims, uint64_t* count) {
  return tensor == nullptr ? aclError{kAclnnNullPointer} : copy_dims(tensor->storage_shape, dims, count);
}

ACL_API aclError aclGetViewStrides(const aclTensor* tensor, int64_t** strides, uint64_t* count) {
  return tensor == nullptr ? aclError{kAclnnNullPointer} : copy_dims(tensor->strides, strides, count);
}

ACL_API aclError aclGetViewOffset(const aclTensor* tensor, int64_t* offset) {
  if (tensor == nullptr || offset == nullptr) return kAclnnNullPointer;
  *offset = tensor->offset;
  return kSuccess;
}

ACL_API aclError aclGetFormat(const aclTensor* tensor, int* format) {
  if (tensor == nullptr || format == nullptr) return kAclnnNullPointer;
  *format = tensor->format;
  return kSuccess;
}

ACL_API aclError aclGetDataType(const aclTensor* tensor, int* dtype) {
  if (tensor == nullptr || dtype == nullptr) return kAclnnNullPointer;
  *dtype = tensor->dtype;
  return kSuccess;
}

ACL_API aclError aclGetRawTensorAddr(const aclTensor* tensor, void** address) {
  if (tensor == nullptr || address == nullptr) return kAclnnNullPointer;
  *address = tensor->data;
  return kSuccess;
}

ACL_API aclError aclSetRawTensorAddr(aclTensor* tensor, void* address) {
  if (tensor == nullptr) return kAclnnNullPointer;
  tensor->data = address;
  return kSuccess;
}

ACL_API aclError aclGetIntArraySize(const aclIntArray* array, uint64_t* size) { return size_of(array, size); }
ACL_API aclError aclGetFloatArraySize(const aclFloatArray* array, uint64_t* size) { return size_of(array, size); }
ACL_API aclError aclGetBoolArraySize(const aclBoolArray* array, uint64_t* size) { return size_of(array, size); }
ACL_API aclError aclGetTensorListSize(const aclTensorList* list, uint64_t* size) { return size_of(list, size); }
ACL_API aclError aclGetScalarListSize(const aclScalarList* list, uint64_t* size) { return size_of(list, size); }
