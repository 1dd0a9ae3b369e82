// aclnnDynamicQuantV2 and aclnnAscendQuantV3 with int8 results: one scale per token found here, or scales that are given.
#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/div.h>
#include <ATen/ops/round.h>
#include <ATen/ops/where.h>

#include <string>
#include <vector>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

constexpr int64_t kToInt8 = kInt8;
constexpr double kMost = 127.0, kLeast = -128.0;

std::vector<int64_t> without_last(const std::vector<int64_t>& shape) { return {shape.begin(), shape.end() - 1}; }

const OperatorTable kDynamicQuantV2{
    "aclnnDynamicQuantV2", "CANN ops-nn, aclnnDynamicQuantV2.md", kAllFamilies,
    {{"x", kHalfFloats, 2, 8},
     unsupported("smoothScales"),
     unsupported("groupIndex"),
     {"yOut", dtypes(kInt8), 2, 8, true},
     {"scaleOut", dtypes(kFloat), 1, 7, true},
     unsupported("offsetOut")},
    {{"dstType", "2, int8 (int4 and its packing are not emulated)", "parameters, dstType",
      [](const Call& c) { return c.integer("dstType") == kToInt8; }},
     {"yOut", "the shape of x", "parameters, yOut", [](const Call& c) { return c.same_shape("x", "yOut"); }},
     {"scaleOut", "the shape of x without its last dimension", "parameters, scaleOut",
      [](const Call& c) { return c.tensor("scaleOut")->shape == without_last(c.tensor("x")->shape); }},
     {"x", "a last dimension that is a multiple of 32", "constraints, inference products",
      [](const Call& c) { return c.size("x", -1) % 32 == 0; }, kAclnnInvalidParam, family(SocFamily::k310P)}}};

void quantise_rows(const at::Tensor& x, const at::Tensor& result, const at::Tensor& scales) {
  if (x.numel() == 0) return;
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = wide.abs().amax(-1).div_(kMost);
  scales.copy_(scale);
  // A row of zeros has the scale zero, and zeros it stays.
  const at::Tensor divisor = at::where(scale.eq(0), 1.0, scale).unsqueeze(-1);
  result.copy_(at::round(at::div(wide, divisor)).clamp_(kLeast, kMost));
}

int64_t axis_of(const Call& c) {
  const int64_t axis = c.integer("axis");
  return axis < 0 ? axis + c.dims("x") : axis;
}

// One dimension, or as many as x with 1 everywhere but along the axis.
bool fits_the_axis(const Call& c) {
  const std::vector<int64_t>& scale = c.tensor("scale")->shape;
  const int64_t axis = axis_of(c), wanted = c.size("x", static_cast<int>(axis));
  if (scale.size() == 1) return scale[0] == 1 || scale[0] == wanted;
  if (static_cast<int64_t>(scale.size()) != c.dims("x")) return false;
  for (int64_t i = 0; i < c.dims("x"); ++i) {
    if (scale[i] != 1 && !(i == axis && scale[i] == wanted)) return false;
  }
  return true;
}

const OperatorTable kAscendQuantV3{
    "aclnnAscendQuantV3", "CANN ops-nn, aclnnAscendQuantV3.md", kAllFamilies,
    {{"x", kFloats, 1, 8},
     {"scale", kFloats, 1, 8},
     {"offset", kFloats, 1, 8, false, Presence::kOptional},
     {"y", dtypes(kInt8), 1, 8}},
    {{"dstType", "2, int8 (int4 and its packing are not emulated)", "parameters, dstType",
      [](const Call& c) { return c.integer("dstType") == kToInt8; }},
     {"roundMode", "round, to the nearest (ceil, floor and trunc are not emulated)", "parameters, roundMode",
      [](const Call& c) { return c.text("roundMode") == "round"; }},
     {"axis", "one of the last two dimensions of x", "parameters, axis",
      [](const Call& c) { return axis_of(c) >= c.dims("x") - 2 && axis_of(c) >= 0 && axis_of(c) < c.dims("x"); }},
     {"axis", "the last dimension of x", "parameters, inference products",
      [](const Call& c) { return axis_of(c) == c.dims("x") - 1; }, kAclnnInvalidParam, family(SocFamily::k310P)},
     {"scale", "the type of x", "parameters, scale", [](const Call& c) { return c.same_dtype("x", "scale"); }},
     {"scale", "1 or the size of x along axis, and 1 along the others", "parameters, scale", fits_the_axis},
     {"offset", "type and shape of scale", "parameters, offset",
      [](const Call& c) { return !c.has("offset") || (c.same_dtype("scale", "offset") && c.same_shape("scale", "offset")); }},
     {"y", "the shape of x", "parameters, y", [](const Call& c) { return c.same_shape("x", "y"); }}}};

// The parameter as something that broadcasts along x.
at::Tensor along(const at::Tensor& parameter, int64_t axis, int64_t dims) {
  if (!parameter.defined() || parameter.dim() == dims) return parameter;
  std::vector<int64_t> shape(dims, 1);
  shape[axis] = parameter.numel();
  return parameter.view(shape);
}

void quantise(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& offset, bool squared,
              const at::Tensor& result) {
  if (x.numel() == 0) return;
  const at::Tensor factor = scale.to(at::kFloat);
  at::Tensor scaled = x.to(at::kFloat).mul(factor);
  if (squared) scaled.mul_(factor);
  if (offset.defined()) scaled.add_(offset.to(at::kFloat));
  result.copy_(scaled.round_().clamp_(kLeast, kMost));
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnDynamicQuantV2GetWorkspaceSize(const aclTensor* x, const aclTensor* smooth_scales,
                                                     const aclTensor* group_index, int64_t dst_type,
                                                     const aclTensor* y, const aclTensor* scale,
                                                     const aclTensor* offset, uint64_t* workspace_size,
                                                     aclOpExecutor** executor) {
  Call call(kDynamicQuantV2);
  call.input("x", x).input("smoothScales", smooth_scales).input("groupIndex", group_index);
  call.integer("dstType", dst_type).output("yOut", y).output("scaleOut", scale).output("offsetOut", offset);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [in = view(x), out = view(y), scales = view(scale)] { quantise_rows(in, out, scales); });
}
HOSTCANN_OPERATOR_RUN(aclnnDynamicQuantV2)

ACL_API aclError aclnnAscendQuantV3GetWorkspaceSize(const aclTensor* x, const aclTensor* scale, const aclTensor* offset,
                                                    bool sqrt_mode, const char* round_mode, int32_t dst_type,
                                                    int32_t axis, const aclTensor* y, uint64_t* workspace_size,
                                                    aclOpExecutor** executor) {
  Call call(kAscendQuantV3);
  call.input("x", x).input("scale", scale).input("offset", offset).text("roundMode", round_mode);
  call.integer("dstType", dst_type).integer("axis", axis).output("y", y);
  if (aclError error = call.check()) return error;
  const int64_t at_axis = axis_of(call), dims = call.dims("x");
  return call.finish(workspace_size, executor,
                     [in = view(x), factor = along(view(scale), at_axis, dims),
                      shift = along(view(offset), at_axis, dims), sqrt_mode,
                      out = view(y)] { quantise(in, factor, shift, sqrt_mode, out); });
}
HOSTCANN_OPERATOR_RUN(aclnnAscendQuantV3)
