// aclnnQuantMatmulV5 and, for weights in FRACTAL_NZ, aclnnQuantMatmulWeightNz with int8 operands: a product of integers,
// and what turns it back into numbers.
#include <ATen/core/Tensor.h>

#include <algorithm>

#include "opapi/integer_product.h"
#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

bool without_gaps(const Call& c, const char* name) {
  return is_contiguous(*c.tensor(name)) || is_transposed(*c.tensor(name));
}

int64_t last_in_memory(const Call& c, const char* name) {
  return c.size(name, is_contiguous(*c.tensor(name)) ? 1 : 0);
}

// Rows in memory may be longer where the scales are floating and of one dimension, which this table demands anyway.
bool short_rows(const Call& c, const char* name) { return c.has("x1Scale") || last_in_memory(c, name) <= 65535; }

bool one_or(const Call& c, const char* name, int64_t size) { return c.size(name, 0) == 1 || c.size(name, 0) == size; }

DataType out_type(const Call& c) { return c.tensor("out")->dtype; }

bool bias_type_fits(const Call& c) {
  if (!c.has("bias")) return true;
  const DataType bias = c.tensor("bias")->dtype;
  return bias == kInt32 || bias == kFloat || bias == out_type(c);
}

// (source: constraints, combinations of types; those with int8 operands that produce floating results)
std::vector<TensorRow> rows_of_table(TensorRow x2) {
  return {{"x1", dtypes(kInt8), 2, 2},
          x2,
          {"x1Scale", dtypes(kFloat), 1, 1, true, Presence::kOptional},
          {"x2Scale", dtypes(kFloat, kBf16), 1, 1, true},
          unsupported("yScale"),
          unsupported("x1Offset"),
          unsupported("x2Offset"),
          unsupported("yOffset"),
          {"bias", dtypes(kInt32, kFloat, kFloat16, kBf16), 1, 1, true, Presence::kOptional},
          {"out", kHalfFloats, 2, 2, true}};
}

std::vector<Rule> rules_of_table(std::vector<Rule> more) {
  std::vector<Rule> rules{
      {"transposeX1", "false (what is transposed lies so in memory)", "parameters, transposeX1",
       [](const Call& c) { return c.integer("transposeX1") == 0; }},
      {"transposeX2", "false (what is transposed lies so in memory)", "parameters, transposeX2",
       [](const Call& c) { return c.integer("transposeX2") == 0; }},
      {"groupSize", "0, scales of whole rows and columns (groups are not emulated)", "parameters, groupSize",
       [](const Call& c) { return c.integer("groupSize") == 0; }},
      {"x1", "a matrix without gaps, as it is or transposed", "parameters, x1",
       [](const Call& c) { return without_gaps(c, "x1"); }},
      {"x1", "at least one row and one column", "return values, empty tensors",
       [](const Call& c) { return c.size("x1", 0) > 0 && c.size("x1", 1) > 0; }},
      {"x2", "at least one column", "return values, empty tensors", [](const Call& c) { return c.size("x2", 1) > 0; }},
      {"x2", "as many rows as x1 has columns", "function",
       [](const Call& c) { return c.size("x2", 0) == c.size("x1", 1); }},
      {"x1", "rows in memory of at most 65535 elements", "parameters, x1",
       [](const Call& c) { return short_rows(c, "x1"); }},
      {"x2", "rows in memory of at most 65535 elements", "parameters, x2",
       [](const Call& c) { return short_rows(c, "x2"); }},
      {"x1Scale", "one per row of x1", "constraints, x1Scale",
       [](const Call& c) { return !c.has("x1Scale") || c.size("x1Scale", 0) == c.size("x1", 0); }},
      {"x2Scale", "1 or one per column of x2", "constraints, x2Scale",
       [](const Call& c) { return one_or(c, "x2Scale", c.size("x2", 1)); }},
      {"x1Scale", "present where out is float16 (without it x2Scale is packed, which is not emulated)",
       "constraints, types", [](const Call& c) { return out_type(c) != kFloat16 || c.has("x1Scale"); }},
      {"x2Scale", "float32 where out is float16", "constraints, types",
       [](const Call& c) { return out_type(c) != kFloat16 || c.tensor("x2Scale")->dtype == kFloat; }},
      {"bias", "int32, float32 or the type of out", "constraints, types", bias_type_fits},
      {"bias", "one per column of x2", "constraints, bias",
       [](const Call& c) { return !c.has("bias") || c.size("bias", 0) == c.size("x2", 1); }},
      {"out", "the rows of x1, the columns of x2", "parameters, out", [](const Call& c) {
         return c.size("out", 0) == c.size("x1", 0) && c.size("out", 1) == c.size("x2", 1);
       }}};
  rules.insert(rules.end(), more.begin(), more.end());
  return rules;
}

const OperatorTable kQuantMatmulV5{
    "aclnnQuantMatmulV5", "CANN ops-nn, aclnnQuantMatmulV5.md", kA2A3A5, rows_of_table({"x2", dtypes(kInt8), 2, 2}),
    rules_of_table({{"x2", "a matrix without gaps, as it is or transposed", "parameters, x2",
                     [](const Call& c) { return without_gaps(c, "x2"); }}})};

constexpr Families k310P = family(SocFamily::k310P), k950 = family(SocFamily::k950);

// 310P has this one only, and of its combinations the one with scales for every row and column.
const OperatorTable kQuantMatmulWeightNz{
    "aclnnQuantMatmulWeightNz", "CANN ops-nn, aclnnQuantMatmulWeightNz.md", kAllFamilies,
    rows_of_table(fractal_nz("x2", dtypes(kInt8), 2)),
    rules_of_table(
        {{"x2", "contiguous (on 950 also transposed)", "constraints, A2, A3 and 310P, x2",
          [](const Call& c) { return is_contiguous(*c.tensor("x2")); }, kAclnnInvalidParam, kAllFamilies & ~k950},
         {"x2", "more than one row and more than one column", "constraints, a size of 1",
          [](const Call& c) { return c.size("x2", 0) > 1 && c.size("x2", 1) > 1; }},
         {"x2Scale", "float32, one per column of x2", "constraints, 310P, types and K-C",
          [](const Call& c) { return c.tensor("x2Scale")->dtype == kFloat && c.size("x2Scale", 0) == c.size("x2", 1); },
          kAclnnInvalidParam, k310P},
         {"bias", "int32", "constraints, 310P, types",
          [](const Call& c) { return !c.has("bias") || c.tensor("bias")->dtype == kInt32; }, kAclnnInvalidParam, k310P},
         {"x1", "rows in memory of at most 65535 elements", "constraints, 310P, x1",
          [](const Call& c) { return last_in_memory(c, "x1") <= 65535; }, kAclnnInvalidParam, k310P},
         {"x2", "rows in memory of at most 65535 elements", "constraints, 310P, x2",
          [](const Call& c) { return last_in_memory(c, "x2") <= 65535; }, kAclnnInvalidParam, k310P}})};

struct Product {
  at::Tensor x1, x1_scale, x2_scale, bias, out;
  std::function<at::Tensor()> x2;
};

void multiply(const Product& p) {
  at::Tensor sum = integer_product(p.x1, p.x2());
  const bool on_integers = p.bias.defined() && p.bias.scalar_type() == at::kInt;
  if (on_integers) sum.add_(p.bias);
  at::Tensor result = sum.to(at::kFloat).mul_(p.x2_scale.to(at::kFloat));
  if (p.x1_scale.defined()) result.mul_(p.x1_scale.unsqueeze(1));
  if (p.bias.defined() && !on_integers) result.add_(p.bias.to(at::kFloat));
  p.out.copy_(result);
}

// torch-npu passes empty tensors for offsets that there are none of.
const aclTensor* unless_empty(const aclTensor* tensor) {
  if (tensor == nullptr) return nullptr;
  return std::find(tensor->shape.begin(), tensor->shape.end(), 0) != tensor->shape.end() ? nullptr : tensor;
}

// torch-npu says by strides what is transposed.
aclError prepare(const OperatorTable& table, const aclTensor* x1, const aclTensor* x2, const aclTensor* x1_scale,
                 const aclTensor* x2_scale, const aclTensor* y_scale, const aclTensor* x1_offset,
                 const aclTensor* x2_offset, const aclTensor* y_offset, const aclTensor* bias, bool transpose_x1,
                 bool transpose_x2, int64_t group_size, aclTensor* out, uint64_t* workspace_size,
                 aclOpExecutor** executor) {
  Call call(table);
  call.input("x1", x1).input("x2", x2).input("x1Scale", x1_scale).input("x2Scale", x2_scale).input("yScale", y_scale);
  call.input("x1Offset", unless_empty(x1_offset)).input("x2Offset", x2_offset);
  call.input("yOffset", unless_empty(y_offset)).input("bias", bias);
  call.integer("transposeX1", transpose_x1).integer("transposeX2", transpose_x2).integer("groupSize", group_size);
  call.output("out", out);
  if (aclError error = call.check()) return error;
  Product product{view(x1), view(x1_scale), view(x2_scale), view(bias), view(out), {}};
  if (x2->format == kFractalNz) {
    product.x2 = [in_tiles = tiles(*x2)] { return from_tiles(in_tiles); };
  } else {
    product.x2 = [plain = view(x2)] { return plain; };
  }
  return call.finish(workspace_size, executor, [product] { multiply(product); });
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnQuantMatmulV5GetWorkspaceSize(
    const aclTensor* x1, const aclTensor* x2, const aclTensor* x1_scale, const aclTensor* x2_scale,
    const aclTensor* y_scale, const aclTensor* x1_offset, const aclTensor* x2_offset, const aclTensor* y_offset,
    const aclTensor* bias, bool transpose_x1, bool transpose_x2, int64_t group_size, aclTensor* out,
    uint64_t* workspace_size, aclOpExecutor** executor) {
  return prepare(kQuantMatmulV5, x1, x2, x1_scale, x2_scale, y_scale, x1_offset, x2_offset, y_offset, bias, transpose_x1,
                 transpose_x2, group_size, out, workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnQuantMatmulV5)

ACL_API aclError aclnnQuantMatmulWeightNzGetWorkspaceSize(
    const aclTensor* x1, const aclTensor* x2, const aclTensor* x1_scale, const aclTensor* x2_scale,
    const aclTensor* y_scale, const aclTensor* x1_offset, const aclTensor* x2_offset, const aclTensor* y_offset,
    const aclTensor* bias, bool transpose_x1, bool transpose_x2, int64_t group_size, aclTensor* out,
    uint64_t* workspace_size, aclOpExecutor** executor) {
  return prepare(kQuantMatmulWeightNz, x1, x2, x1_scale, x2_scale, y_scale, x1_offset, x2_offset, y_offset, bias, transpose_x1,
                 transpose_x2, group_size, out, workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnQuantMatmulWeightNz)
