// aclnnWeightQuantBatchMatmulV2: floating rows times a matrix of int8, or of int4 with eight numbers in an int32.
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>

#include "opapi/operator.h"
#include "opapi/packed_int4.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

constexpr int64_t kLongest = 65535;

bool packed(const Call& c) { return c.tensor("weight")->dtype == kInt32; }

int64_t columns(const Call& c) { return c.size("weight", 1) * (packed(c) ? kPackedInt4 : 1); }

bool transposed(const aclTensor& matrix) { return matrix.strides[0] == 1 && matrix.strides[1] == matrix.shape[0]; }

bool weight_fits(const Call& c) {
  const aclTensor& weight = *c.tensor("weight");
  return is_contiguous(weight) || (!packed(c) && transposed(weight));
}

bool group_fits(const Call& c) {
  const int64_t group = c.integer("antiquantGroupSize");
  return group == 0 || (group >= 32 && group < c.size("x", 1) && group % 32 == 0);
}

// Per tensor (1) or (1, 1), per channel (n) or (1, n), per group (groups, n).
bool scale_fits(const Call& c) {
  const int64_t group = c.integer("antiquantGroupSize"), last = c.size("antiquantScale", -1);
  const int64_t rows = c.dims("antiquantScale") == 2 ? c.size("antiquantScale", 0) : 1;
  if (group == 0) return rows == 1 && (last == 1 || last == columns(c));
  return c.dims("antiquantScale") == 2 && rows == (c.size("x", 1) + group - 1) / group && last == columns(c);
}

bool offset_fits(const Call& c) {
  return !c.has("antiquantOffset") ||
         (c.same_shape("antiquantOffset", "antiquantScale") && c.same_dtype("antiquantOffset", "antiquantScale"));
}

bool bias_fits(const Call& c) {
  if (!c.has("bias")) return true;
  const bool one_row = c.dims("bias") == 1 || c.size("bias", 0) == 1;
  return one_row && c.size("bias", -1) == columns(c) &&
         c.tensor("bias")->dtype == (c.tensor("x")->dtype == kFloat16 ? kFloat16 : kFloat);
}

// (source: constraints, Atlas A2 and A3)
const OperatorTable kWeightQuantBatchMatmulV2{
    "aclnnWeightQuantBatchMatmulV2", "CANN ops-nn, aclnnWeightQuantBatchMatmulV2.md", kA2A3,
    {{"x", kHalfFloats, 2, 2, true},
     {"weight", dtypes(kInt8, kInt32), 2, 2},
     {"antiquantScale", kHalfFloats, 1, 2, true},
     {"antiquantOffset", kHalfFloats, 1, 2, true, Presence::kOptional},
     unsupported("quantScale"),
     unsupported("quantOffset"),
     {"bias", dtypes(kFloat, kFloat16), 1, 2, true, Presence::kOptional},
     {"y", kHalfFloats, 2, 2, true}},
    {{"weight", "a matrix without gaps, as it is or, of int8, transposed (packed and transposed is not emulated)",
      "constraints, weight", weight_fits},
     {"x", "at least one row, and 1 to 65535 columns", "return values, k, m and empty tensors",
      [](const Call& c) { return c.size("x", 0) > 0 && c.size("x", 1) > 0 && c.size("x", 1) <= kLongest; }},
     {"weight", "1 to 65535 columns", "return values, n",
      [](const Call& c) { return columns(c) > 0 && columns(c) <= kLongest; }},
     {"weight", "as many rows as x has columns", "constraints, weight",
      [](const Call& c) { return c.size("weight", 0) == c.size("x", 1); }},
     {"antiquantGroupSize", "0, or a multiple of 32 below the columns of x", "parameters, antiquantGroupSize",
      group_fits},
     {"antiquantScale", "the type of x", "constraints, antiquantScale",
      [](const Call& c) { return c.same_dtype("antiquantScale", "x"); }},
     {"antiquantScale", "one for all, one per column, or with groups one per group and column",
      "constraints, antiquantScale", scale_fits},
     {"antiquantOffset", "the shape and type of antiquantScale", "constraints, antiquantOffsetOptional", offset_fits},
     {"bias", "one per column of weight, float16 beside float16 and float32 beside bfloat16",
      "constraints, biasOptional", bias_fits},
     {"y", "the rows of x, the columns of weight, the type of x", "constraints, y", [](const Call& c) {
        return c.size("y", 0) == c.size("x", 0) && c.size("y", 1) == columns(c) && c.same_dtype("y", "x");
      }}}};

struct Product {
  at::Tensor x, weight, scale, offset, bias, y;
  int64_t group;
};

at::Tensor per_row(const at::Tensor& values, const Product& p) {
  const at::Tensor wide = values.to(at::kFloat);
  return p.group == 0 ? wide : wide.repeat_interleave(p.group, 0).slice(0, 0, p.x.size(1));
}

void multiply(const Product& p) {
  at::Tensor weight = (p.weight.scalar_type() == at::kInt ? unpacked_int4(p.weight) : p.weight).to(at::kFloat);
  if (p.offset.defined()) weight = weight.add(per_row(p.offset, p));
  // The matrix unit takes numbers of the type of x.
  weight = weight.mul(per_row(p.scale, p)).to(p.x.scalar_type()).to(at::kFloat);
  at::Tensor result = at::mm(p.x.to(at::kFloat), weight);
  if (p.bias.defined()) result.add_(p.bias.to(at::kFloat));
  p.y.copy_(result);
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnWeightQuantBatchMatmulV2GetWorkspaceSize(
    const aclTensor* x, const aclTensor* weight, const aclTensor* antiquant_scale, const aclTensor* antiquant_offset,
    const aclTensor* quant_scale, const aclTensor* quant_offset, const aclTensor* bias, int antiquant_group_size,
    const aclTensor* y, uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kWeightQuantBatchMatmulV2);
  call.input("x", x).input("weight", weight).input("antiquantScale", antiquant_scale);
  call.input("antiquantOffset", antiquant_offset).input("quantScale", quant_scale);
  call.input("quantOffset", quant_offset).input("bias", bias).integer("antiquantGroupSize", antiquant_group_size);
  call.output("y", y);
  if (aclError error = call.check()) return error;
  const Product product{view(x), view(weight), view(antiquant_scale), view(antiquant_offset), view(bias), view(y),
                        antiquant_group_size};
  return call.finish(workspace_size, executor, [product] { multiply(product); });
}
HOSTCANN_OPERATOR_RUN(aclnnWeightQuantBatchMatmulV2)
