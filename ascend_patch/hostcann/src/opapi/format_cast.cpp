// aclnnNpuFormatCast between ND and FRACTAL_NZ. torch-npu asks for it from CANN 9.1.0 on, on A2 and A3, and on Ascend 950;
// otherwise the cast is an Identity for the compiler of aclop.
#include <algorithm>

#include "hostcann/fractal_nz.h"
#include "opapi/operator.h"

namespace hostcann::opapi {
namespace {

constexpr const char* kSource = "CANN ops-math, aclnnNpuFormatCast.md";
constexpr DtypeSet kTypes = dtypes(kFloat16, kBf16, kInt8);

int64_t item(const aclTensor& tensor) { return static_cast<int64_t>(element_size(tensor.dtype)); }

// Which of both is in FRACTAL_NZ; null where neither is, or both are.
const aclTensor* tiled(const Call& c) {
  const aclTensor *source = c.tensor("srcTensor"), *target = c.tensor("dstTensor");
  if ((source->format == kFractalNz) == (target->format == kFractalNz)) return nullptr;
  return source->format == kFractalNz ? source : target;
}

bool memory_fits(const Call& c) {
  const aclTensor& tensor = *tiled(c);
  return tensor.storage_shape == fractal_nz_shape(tensor.shape, item(tensor));
}

bool other_is_plain(const Call& c) {
  return tiled(c) != nullptr && !is_private(c.tensor("srcTensor") == tiled(c) ? c.tensor("dstTensor")->format
                                                                             : c.tensor("srcTensor")->format);
}

// Casts to FRACTAL_NZ that the 950 does not have yet: of 16-bit matrices [1, n].
bool missing_on_950(const aclTensor& source, int target_format) {
  return source.format != kFractalNz && target_format == kFractalNz && source.dtype != kInt8 &&
         source.shape[source.shape.size() - 2] == 1;
}

constexpr const char* kRowsOn950 = "more than one row, for a cast of float16 or bfloat16 to FRACTAL_NZ on Ascend 950";

TensorRow either(const char* name) { return {name, kTypes, 2, 6, true, Presence::kRequired, Layout::kAny}; }

const OperatorTable kNpuFormatCast{
    "aclnnNpuFormatCast", kSource, kA2A3A5, {either("srcTensor"), either("dstTensor")},
    {{"dstTensor", "FRACTAL_NZ for a srcTensor in ND, or ND for one in FRACTAL_NZ (other pairs are not emulated)",
      "constraints, formats", other_is_plain},
     {"dstTensor", "the type of srcTensor", "constraints, types",
      [](const Call& c) { return c.same_dtype("srcTensor", "dstTensor"); }},
     {"dstTensor", "the shape of srcTensor", "function", [](const Call& c) { return c.same_shape("srcTensor", "dstTensor"); }},
     {"srcTensor", "no size of 0", "return values, empty tensors",
      [](const Call& c) { return element_count(*c.tensor("srcTensor")) > 0; }},
     {"srcTensor", kRowsOn950, "constraints, Ascend 950, k = 1",
      [](const Call& c) { return !missing_on_950(*c.tensor("srcTensor"), c.tensor("dstTensor")->format); },
      kAclnnInvalidParam, family(SocFamily::k950)},
     {"dstTensor", "one side with memory [.., ceil(columns / C0), ceil(rows / 16), 16, C0], C0 of 32 bytes",
      "parameters, dstShape", memory_fits}}};

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

// The caller frees dstShape with delete[].
ACL_API aclError aclnnNpuFormatCastCalculateSizeAndFormat(const aclTensor* source, int target_format,
                                                          int additional_dtype, int64_t** target_shape,
                                                          uint64_t* target_dims, int* actual_format) {
  constexpr const char* name = "aclnnNpuFormatCastCalculateSizeAndFormat";
  if (source == nullptr || target_shape == nullptr || target_dims == nullptr || actual_format == nullptr) {
    return fail(kAclnnNullPointer, "%s: srcTensor, dstShape, dstShapeSize and actualFormat must not be null", name);
  }
  if (!(kA2A3A5 & family(soc().family))) {
    return fail(kAclnnRuntimeError, "%s does not exist on %s (source: %s, products)", name, soc().name, kSource);
  }
  const bool into = target_format == kFractalNz && !is_private(source->format);
  const bool back = source->format == kFractalNz && !is_private(target_format);
  if (!into && !back) {
    return fail(kAclnnRuntimeError, "%s: from format %d to %d; hostcann emulates ND to FRACTAL_NZ (29) and back (source: %s)",
                name, source->format, target_format, kSource);
  }
  if (!has_fractal_nz(source->dtype) || (additional_dtype != -1 && additional_dtype != source->dtype)) {
    return fail(kAclnnInvalidParam, "%s: srcTensor is %s with additionalDtype %d; hostcann emulates float16, bfloat16 and "
                "int8 with tiles of their own type (source: %s)", name, describe(*source).c_str(), additional_dtype, kSource);
  }
  if (source->shape.size() < 2 || source->shape.size() > 6 || element_count(*source) == 0) {
    return fail(kAclnnInvalidParam, "%s: srcTensor is %s; allowed: 2 to 6 dimensions, none of size 0 (source: %s)", name,
                describe(*source).c_str(), kSource);
  }
  if (soc().family == SocFamily::k950 && missing_on_950(*source, target_format)) {
    return fail(kAclnnInvalidParam, "%s: srcTensor is %s; allowed: %s (source: %s)", name, describe(*source).c_str(),
                kRowsOn950, kSource);
  }
  const std::vector<int64_t> shape =
      into ? fractal_nz_shape(source->shape, static_cast<int64_t>(element_size(source->dtype))) : source->shape;
  *target_shape = new int64_t[shape.size()];
  std::copy(shape.begin(), shape.end(), *target_shape);
  *target_dims = shape.size();
  *actual_format = target_format;
  return kSuccess;
}

ACL_API aclError aclnnNpuFormatCastGetWorkspaceSize(const aclTensor* source, aclTensor* target, uint64_t* workspace_size,
                                                    aclOpExecutor** executor) {
  Call call(kNpuFormatCast);
  call.input("srcTensor", source).output("dstTensor", target);
  if (aclError error = call.check()) return error;
  auto work = [into = target->format == kFractalNz, from = first_element(*source), to = first_element(*target),
               shape = source->shape, bytes = static_cast<int64_t>(element_size(source->dtype))] {
    if (into) {
      to_fractal_nz(from, to, shape, bytes);
    } else {
      from_fractal_nz(from, to, shape, bytes);
    }
  };
  return call.finish(workspace_size, executor, work);
}
HOSTCANN_OPERATOR_RUN(aclnnNpuFormatCast)
