// Descriptors of the old single-operator interface (aclop). torch-npu fills them before it asks the operator compiler to
// execute something; the descriptors work, most of the execution is refused (see acl_op_compiler).
#include "hostcann/descriptors.h"

#include "config.h"

using namespace hostcann;

struct aclopAttr {};

ACL_API aclTensorDesc* aclCreateTensorDesc(int data_type, int dim_count, const int64_t* dims, int format) {
  const std::vector<int64_t> shape(dims, dims + dim_count);
  return new aclTensorDesc{data_type, format, format, 0, shape, shape, {}};
}
ACL_API void aclDestroyTensorDesc(const aclTensorDesc* descriptor) { delete descriptor; }
ACL_API int aclGetTensorDescType(const aclTensorDesc* descriptor) { return descriptor->data_type; }
ACL_API int aclGetTensorDescFormat(const aclTensorDesc* descriptor) { return descriptor->format; }
ACL_API size_t aclGetTensorDescNumDims(const aclTensorDesc* descriptor) { return descriptor->dims.size(); }
ACL_API aclError aclGetTensorDescDimV2(const aclTensorDesc* descriptor, size_t index, int64_t* size) {
  if (index >= descriptor->dims.size()) return fail(kInvalidParam, "aclGetTensorDescDimV2: no dimension %zu", index);
  *size = descriptor->dims[index];
  return kSuccess;
}
ACL_API void aclSetTensorDescName(aclTensorDesc* descriptor, const char* name) { descriptor->name = name; }
ACL_API aclError aclSetTensorFormat(aclTensorDesc* descriptor, int format) {
  descriptor->storage_format = format;
  return kSuccess;
}
ACL_API aclError aclSetTensorShape(aclTensorDesc* descriptor, int dim_count, const int64_t* dims) {
  descriptor->storage_dims.assign(dims, dims + dim_count);
  return kSuccess;
}
ACL_API aclError aclSetTensorPlaceMent(aclTensorDesc* descriptor, int placement) {
  descriptor->placement = placement;
  return kSuccess;
}

ACL_API aclDataBuffer* aclCreateDataBuffer(void* data, size_t bytes) { return new aclDataBuffer{data, bytes}; }
ACL_API aclError aclDestroyDataBuffer(const aclDataBuffer* buffer) {
  delete buffer;
  return kSuccess;
}

// Attributes are never read: what executes through this interface has none.
ACL_API aclopAttr* aclopCreateAttr() { return new aclopAttr; }
ACL_API void aclopDestroyAttr(const aclopAttr* attributes) { delete attributes; }
ACL_API aclError aclopSetAttrBool(aclopAttr*, const char*, uint8_t) { return kSuccess; }
ACL_API aclError aclopSetAttrInt(aclopAttr*, const char*, int64_t) { return kSuccess; }
ACL_API aclError aclopSetAttrFloat(aclopAttr*, const char*, float) { return kSuccess; }
ACL_API aclError aclopSetAttrString(aclopAttr*, const char*, const char*) { return kSuccess; }
ACL_API aclError aclopSetAttrDataType(aclopAttr*, const char*, int) { return kSuccess; }
ACL_API aclError aclopSetAttrListBool(aclopAttr*, const char*, int, const uint8_t*) { return kSuccess; }
ACL_API aclError aclopSetAttrListInt(aclopAttr*, const char*, int, const int64_t*) { return kSuccess; }
ACL_API aclError aclopSetAttrListFloat(aclopAttr*, const char*, int, const float*) { return kSuccess; }
ACL_API aclError aclopSetAttrListListInt(aclopAttr*, const char*, int, const int*, const int64_t* const*) {
  return kSuccess;
}
