// The opaque aclnn argument objects that torch-npu creates, passes to an operator and destroys again.
#pragma once

#include <string>
#include <vector>

#include "hostcann/acl_types.h"

// Strides and the offset count elements. `shape` is the view's shape; `storage_shape` that of the memory behind it,
// which differs for views and for private formats.
struct aclTensor {
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  std::vector<int64_t> storage_shape;
  int64_t offset = 0;
  hostcann::DataType dtype = hostcann::kFloat;
  hostcann::Format format = hostcann::kNd;
  void* data = nullptr;
};

struct aclScalar {
  hostcann::DataType dtype = hostcann::kFloat;
  double real = 0.0;      // the value of every floating type
  int64_t integer = 0;    // the value of every integral type and of bool
};

struct aclIntArray {
  std::vector<int64_t> values;
};

struct aclFloatArray {
  std::vector<float> values;
};

struct aclBoolArray {
  std::vector<unsigned char> values;
};

struct aclTensorList {
  std::vector<const aclTensor*> values;  // owned: destroying the list destroys them
};

struct aclScalarList {
  std::vector<const aclScalar*> values;  // owned
};

namespace hostcann::opapi {

// Bytes of one element; 0 for types without a whole-byte size.
size_t element_size(DataType dtype);

// The name used in messages, e.g. "bfloat16".
const char* dtype_name(DataType dtype);

// Number of elements of the view.
int64_t element_count(const aclTensor& tensor);

// True when the view's elements follow each other without gaps in row-major order.
bool is_contiguous(const aclTensor& tensor);

// Address of the view's first element.
void* first_element(const aclTensor& tensor);

// Bytes from the first to the last element of the view, both included; in a private format, of all of the memory.
size_t span_bytes(const aclTensor& tensor);

// "bfloat16 [3, 4]", with the strides when the view is not contiguous and the format when it is a private one.
std::string describe(const aclTensor& tensor);

// "[3, 4]".
std::string describe(const std::vector<int64_t>& values);

}  // namespace hostcann::opapi
