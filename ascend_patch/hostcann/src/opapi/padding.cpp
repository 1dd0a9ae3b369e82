// aclnnConstantPadNd: torch-npu brings what it gathers into a list of tensors to a multiple of 512 bytes with it.
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <c10/core/Scalar.h>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

constexpr DtypeSet kPaddable =
    dtypes(kFloat, kFloat16, kBf16, kDouble, kInt8, kInt16, kInt32, kInt64, kUint8, kUint16, kUint32, kUint64, kBool,
           kComplex64, kComplex128);

// The last dimension comes first in pad; negative numbers cut off.
bool sizes_match(const Call& c) {
  const std::vector<int64_t>& pad = *c.array("pad");
  const int64_t dims = c.dims("self");
  if (c.dims("out") != dims) return false;
  for (int64_t i = 0; i < dims; ++i) {
    const size_t pair = static_cast<size_t>(dims - 1 - i) * 2;
    const int64_t added = pair + 1 < pad.size() ? pad[pair] + pad[pair + 1] : 0;
    if (c.size("out", static_cast<int>(i)) != c.size("self", static_cast<int>(i)) + added) return false;
  }
  return true;
}

const OperatorTable kConstantPadNd{
    "aclnnConstantPadNd", "CANN ops-math, aclnnConstantPadNd.md", kAllFamilies,
    {{"self", kPaddable, 1, 8}, {"out", kPaddable, 1, 8}},
    {{"pad", "an even number of values, at most two per dimension of self", "parameters, pad",
      [](const Call& c) {
        return c.array("pad")->size() % 2 == 0 && static_cast<int64_t>(c.array("pad")->size()) <= 2 * c.dims("self");
      }},
     {"out", "the type of self", "parameters, out", [](const Call& c) { return c.same_dtype("self", "out"); }},
     {"out", "the sizes of self plus what pad adds", "parameters, out", sizes_match}}};

c10::Scalar value_of(const aclScalar& scalar) {
  switch (scalar.dtype) {
    case kFloat:
    case kFloat16:
    case kBf16:
    case kDouble: return scalar.real;
    default: return scalar.integer;
  }
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnConstantPadNdGetWorkspaceSize(const aclTensor* self, const aclIntArray* pad,
                                                    const aclScalar* value, aclTensor* out, uint64_t* workspace_size,
                                                    aclOpExecutor** executor) {
  if (pad == nullptr || value == nullptr) return fail(kAclnnNullPointer, "aclnnConstantPadNd: pad or value is null");
  Call call(kConstantPadNd);
  call.input("self", self).array("pad", pad).output("out", out);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [s = view(self), o = view(out), widths = pad->values, fill = value_of(*value)] {
                       o.copy_(at::constant_pad_nd(s, widths, fill));
                     });
}
HOSTCANN_OPERATOR_RUN(aclnnConstantPadNd)
