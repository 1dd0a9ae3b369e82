// aclnnGroupedMatmulV4 and V5 and, for weights in FRACTAL_NZ, aclnnGroupedMatmulWeightNz: consecutive rows of x times a
// matrix of their own, one per group. Both floating, both int8, or (V4 and V5) floating rows and weights of int8 or int4.
#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/mm.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "opapi/integer_product.h"
#include "opapi/operator.h"
#include "opapi/packed_int4.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

// Whether each matrix [K, N] lies in memory as [N, K].
bool transposed(const aclTensor& weight) {
  return weight.strides[1] == 1 && weight.strides[2] == weight.shape[1] && !is_contiguous(weight);
}

bool matrices_without_gaps(const Call& c) {
  const aclTensor& w = *c.tensor("weight");
  if (is_contiguous(w)) return true;
  return transposed(w) && (w.shape[0] <= 1 || w.strides[0] == w.shape[1] * w.shape[2]);
}

bool int4(const Call& c) { return c.tensor("weight")->dtype == kInt32; }

// Columns of each matrix: an int32 holds eight of int4.
int64_t columns(const Call& c) { return c.size("weight", 2) * (int4(c) ? kPackedInt4 : 1); }

int64_t weight_row(const Call& c) { return transposed(*c.tensor("weight")) ? c.size("weight", 1) : columns(c); }

bool int8(const Call& c) { return c.tensor("x")->dtype == kInt8; }

// Quantised weights beside rows that are not.
bool weight_only(const Call& c) {
  const DataType x = c.tensor("x")->dtype, weight = c.tensor("weight")->dtype;
  return (x == kFloat16 || x == kBf16) && (weight == kInt8 || weight == kInt32);
}

DataType out_type(const Call& c) { return c.tensor("out")->dtype; }

bool out_type_fits(const Call& c) {
  return int8(c) ? out_type(c) == kFloat16 || out_type(c) == kBf16 : c.same_dtype("x", "out");
}

// (source: constraints, A8W8, data types)
bool scale_fits(const Call& c) {
  if (!int8(c)) return !c.has("scale");
  return c.has("scale") && (c.tensor("scale")->dtype == kFloat || out_type(c) == kBf16);
}

// One per matrix and column or, of int4, per matrix, group of its rows and column.
bool antiquant_scale_fits(const Call& c) {
  if (!c.has("antiquantScale")) return true;
  const bool grouped = c.dims("antiquantScale") == 3;
  if (c.size("antiquantScale", 0) != c.size("weight", 0) || c.size("antiquantScale", -1) != columns(c)) return false;
  if (!grouped) return true;
  const int64_t groups = c.size("antiquantScale", 1);
  return int4(c) && groups > 0 && c.size("x", 1) % groups == 0;
}

bool antiquant_offset_fits(const Call& c) {
  return !c.has("antiquantOffset") ||
         (c.same_shape("antiquantOffset", "antiquantScale") && c.same_dtype("antiquantOffset", "antiquantScale"));
}

DataType bias_type(const Call& c) { return c.tensor("x")->dtype == kFloat16 ? kFloat16 : kFloat; }

std::vector<TensorRow> rows_of_table(DtypeSet types, TensorRow weight, TensorRow antiquant_scale,
                                     TensorRow antiquant_offset) {
  return {{"x", types, 2, 2, true},
          weight,
          {"bias", dtypes(kFloat, kFloat16), 2, 2, true, Presence::kOptional},
          {"scale", dtypes(kFloat, kBf16), 2, 2, true, Presence::kOptional},
          unsupported("offset"),
          antiquant_scale,
          antiquant_offset,
          {"perTokenScale", dtypes(kFloat), 1, 1, true, Presence::kOptional},
          {"groupList", dtypes(kInt64), 1, 1, true},
          unsupported("activationInput"),
          unsupported("activationQuantScale"),
          unsupported("activationQuantOffset"),
          {"out", kFloats, 2, 2, true},
          unsupported("activationFeatureOut"),
          unsupported("dynQuantScaleOut")};
}

std::vector<Rule> rules_of_table(std::vector<Rule> more) {
  std::vector<Rule> rules{
      {"splitItem", "2 or 3, one output (lists of outputs are not emulated)", "parameters, splitItem",
       [](const Call& c) { return c.integer("splitItem") == 2 || c.integer("splitItem") == 3; }},
      {"groupType", "0, groups of rows (-1 and 2 are not emulated)", "constraints, supported groupType",
       [](const Call& c) { return c.integer("groupType") == 0; }},
      {"groupListType", "0 (running totals) or 1 (sizes)", "constraints, unquantised",
       [](const Call& c) { return c.integer("groupListType") == 0 || c.integer("groupListType") == 1; }},
      {"actType", "0, no activation", "constraints, unquantised",
       [](const Call& c) { return c.integer("actType") == 0; }},
      {"out", "the type of x; float16 or bfloat16 where that is int8 (int8 and int32 are not emulated)",
       "constraints, data types", out_type_fits},
      {"scale", "present where x is int8, and only there; float32 where out is float16",
       "constraints, A8W8, data types", scale_fits},
      {"perTokenScale", "only where x is int8", "constraints, unquantised, data types",
       [](const Call& c) { return !c.has("perTokenScale") || int8(c); }},
      {"bias", "none where x is int8 (not emulated)", "constraints, A8W8, data types",
       [](const Call& c) { return !c.has("bias") || !int8(c); }},
      {"bias", "float16 beside float16, else float32", "constraints, unquantised, data types",
       [](const Call& c) { return !c.has("bias") || c.tensor("bias")->dtype == bias_type(c); }},
      {"weight", "[groups, columns of x, columns of out]", "function",
       [](const Call& c) { return c.size("weight", 1) == c.size("x", 1); }},
      {"x", "at least one column where it is int8 (less is not documented)", "constraints, A8W8",
       [](const Call& c) { return !int8(c) || c.size("x", 1) > 0; }},
      {"x", "fewer than 65536 columns", "constraints, last dimension",
       [](const Call& c) { return c.size("x", 1) < 65536; }},
      {"weight", "rows in memory of fewer than 65536 elements", "constraints, last dimension",
       [](const Call& c) { return weight_row(c) < 65536; }},
      {"groupList", "one entry per matrix of weight", "function",
       [](const Call& c) { return c.size("groupList", 0) == c.size("weight", 0); }},
      {"groupList", "at most 1024 groups", "constraints, supported groupType",
       [](const Call& c) { return c.size("groupList", 0) <= 1024; }},
      {"scale", "one row per matrix of weight, as wide as out", "parameters, scaleOptional",
       [](const Call& c) {
         return !c.has("scale") ||
                (c.size("scale", 0) == c.size("weight", 0) && c.size("scale", 1) == columns(c));
       }},
      {"perTokenScale", "one per row of x", "parameters, perTokenScaleOptional",
       [](const Call& c) { return !c.has("perTokenScale") || c.size("perTokenScale", 0) == c.size("x", 0); }},
      {"bias", "one row per matrix of weight, as wide as out", "function",
       [](const Call& c) {
         return !c.has("bias") ||
                (c.size("bias", 0) == c.size("weight", 0) && c.size("bias", 1) == columns(c));
       }},
      {"out", "the rows of x, the columns of weight", "function", [](const Call& c) {
         return c.size("out", 0) == c.size("x", 0) && c.size("out", 1) == columns(c);
       }}};
  rules.insert(rules.end(), more.begin(), more.end());
  return rules;
}

constexpr DtypeSet kTypes = dtypes(kFloat, kFloat16, kBf16, kInt8);

constexpr DtypeSet kWeightTypes = kTypes | dtypes(kInt32);

std::vector<TensorRow> plain_rows() {
  return rows_of_table(kTypes, {"weight", kWeightTypes, 3, 3},
                       {"antiquantScale", kHalfFloats, 2, 3, true, Presence::kOptional},
                       {"antiquantOffset", kHalfFloats, 2, 3, true, Presence::kOptional});
}

// What the page's table of types lists is there: it has no A16W4 and no A16W8 without antiquantOffset.
std::vector<Rule> plain_rules() {
  return rules_of_table(
      {{"weight", "the type of x or, beside float16 and bfloat16, int8 or int32 with eight of int4 in each",
        "constraints, data types", [](const Call& c) { return c.same_dtype("x", "weight") || weight_only(c); }},
       {"weight", "matrices without gaps, each as it is or transposed (int4 transposed is not emulated)",
        "constraints, transposition",
        [](const Call& c) { return int4(c) ? is_contiguous(*c.tensor("weight")) : matrices_without_gaps(c); }},
       {"antiquantScale", "present where the weight alone is quantised, and only there; the type of x",
        "constraints, A16W4 and A16W8, data types",
        [](const Call& c) {
          return c.has("antiquantScale") == weight_only(c) &&
                 (!weight_only(c) || c.same_dtype("antiquantScale", "x"));
        }},
       {"antiquantOffset", "present beside antiquantScale, and only there", "constraints, A16W4 and A16W8, data types",
        [](const Call& c) { return c.has("antiquantOffset") == c.has("antiquantScale"); }},
       {"antiquantScale",
        "[groups, columns of out] or, of int4, [groups, parts, columns of out] with parts that divide the columns of x",
        "constraints, A16W4 and A16W8", antiquant_scale_fits},
       {"antiquantScale", "[groups, columns of out]", "function, 950",
        [](const Call& c) { return !c.has("antiquantScale") || c.dims("antiquantScale") == 2; }, kAclnnInvalidParam,
        family(SocFamily::k950)},
       {"antiquantOffset", "the shape and type of antiquantScale", "constraints, A16W4", antiquant_offset_fits}});
}

const OperatorTable kGroupedMatmulV4{"aclnnGroupedMatmulV4", "CANN ops-transformer, aclnnGroupedMatmulV4.md", kA2A3A5,
                                     plain_rows(), plain_rules()};

const OperatorTable kGroupedMatmulV5{"aclnnGroupedMatmulV5", "CANN ops-transformer, aclnnGroupedMatmulV5.md", kA2A3A5,
                                     plain_rows(), plain_rules()};

// Whole tiles; those of int8 are 32 wide.
bool whole_tiles(const Call& c) {
  const bool swapped = transposed(*c.tensor("weight"));
  return c.size("weight", swapped ? 2 : 1) % 16 == 0 && c.size("weight", swapped ? 1 : 2) % (int8(c) ? 32 : 16) == 0;
}

constexpr DtypeSet kTypesInTiles = dtypes(kFloat16, kBf16, kInt8);

// CANN has it on 310P, too; there it is not emulated.
const OperatorTable kGroupedMatmulWeightNz{
    "aclnnGroupedMatmulWeightNz", "CANN ops-transformer, aclnnGroupedMatmulWeightNz.md", kA2A3,
    rows_of_table(kTypesInTiles, fractal_nz("weight", kTypesInTiles, 3), unsupported("antiquantScale"),
                  unsupported("antiquantOffset")),
    rules_of_table({{"weight", "the type of x", "constraints, data types",
                     [](const Call& c) { return c.same_dtype("x", "weight"); }},
                    {"groupList", "more than one group where it holds sizes", "constraints, groupListType 1",
                     [](const Call& c) { return c.integer("groupListType") != 1 || c.size("groupList", 0) > 1; }},
                    {"weight", "sizes that fill their tiles: multiples of 16, in memory of 32 along rows of int8",
                     "constraints, FRACTAL_NZ", whole_tiles},
                    {"quantGroupSize", "0 (scales of groups are not emulated)", "parameters, quantGroupSize",
                     [](const Call& c) { return c.integer("quantGroupSize") == 0; }}})};

// First row and end of every group. The values lie in device memory: they are known when the operator runs.
std::vector<std::pair<int64_t, int64_t>> ranges(const at::Tensor& list, bool totals, int64_t rows) {
  const auto* values = list.const_data_ptr<int64_t>();
  std::vector<std::pair<int64_t, int64_t>> result;
  int64_t begin = 0;
  for (int64_t group = 0; group < list.numel(); ++group) {
    const int64_t end = totals ? values[group] : begin + values[group];
    if (end < begin || end > rows) {
      throw std::runtime_error("aclnnGroupedMatmul: groupList[" + std::to_string(group) + "] is " +
                               std::to_string(values[group]) + ", rows " + std::to_string(begin) + " to " +
                               std::to_string(end) + " of x; allowed: groups in order within its " +
                               std::to_string(rows) + " rows (source: constraints, groupListOptional)");
    }
    result.emplace_back(begin, end);
    begin = end;
  }
  return result;
}

struct Product {
  at::Tensor x, bias, scale, antiquant_scale, antiquant_offset, per_token_scale, list, out;
  std::function<at::Tensor()> weight;
  bool totals;
};

// A quantised matrix as numbers of the type of x, which the matrix unit takes.
at::Tensor as_floats(const Product& p, const at::Tensor& matrix, int64_t group) {
  const at::Tensor integers = matrix.scalar_type() == at::kInt ? unpacked_int4(matrix) : matrix;
  const auto per_row = [&](const at::Tensor& values) {
    const at::Tensor wide = values[group].to(at::kFloat);
    return wide.dim() == 1 ? wide : wide.repeat_interleave(integers.size(0) / wide.size(0), 0);
  };
  return integers.to(at::kFloat).add(per_row(p.antiquant_offset)).mul(per_row(p.antiquant_scale)).to(p.x.scalar_type());
}

// float32 [end - begin, columns]: half types are rounded once, behind the bias; integers are exact up to the scale.
at::Tensor product_of(const Product& p, const at::Tensor& matrix, int64_t group, int64_t begin, int64_t end) {
  const at::Tensor rows = p.x.slice(0, begin, end);
  if (rows.scalar_type() != at::kChar) {
    const at::Tensor floats = p.antiquant_scale.defined() ? as_floats(p, matrix, group) : matrix;
    at::Tensor result = at::mm(rows.to(at::kFloat), floats.to(at::kFloat));
    return p.bias.defined() ? result.add_(p.bias[group].to(at::kFloat)) : result;
  }
  at::Tensor result = integer_product(rows, matrix).to(at::kFloat).mul_(p.scale[group].to(at::kFloat));
  return p.per_token_scale.defined() ? result.mul_(p.per_token_scale.slice(0, begin, end).unsqueeze(1)) : result;
}

// The values lie in device memory: they are known when the operator runs.
void refuse_offsets_of_groups(const at::Tensor& offset) {
  if (offset.defined() && offset.dim() == 3 && offset.ne(0).any().item<bool>()) {
    throw std::runtime_error(
        "aclnnGroupedMatmul: antiquantOffset has numbers that are not 0; allowed: zeros beside scales of groups (source: "
        "constraints, A16W4, asymmetric quantisation per column only)");
  }
}

// Rows behind the last group keep what they hold, as documented.
void multiply(const Product& p) {
  refuse_offsets_of_groups(p.antiquant_offset);
  int64_t group = -1;
  const at::Tensor weight = p.weight();
  for (const auto& [begin, end] : ranges(p.list, p.totals, p.x.size(0))) {
    ++group;
    if (begin == end || p.out.size(1) == 0) continue;
    p.out.slice(0, begin, end).copy_(product_of(p, weight[group], group, begin, end));
  }
}

struct Lists {
  const aclTensorList *x, *weight, *bias, *scale, *offset, *antiquant_scale, *antiquant_offset, *per_token_scale;
  const aclTensor* group_list;
  const aclTensorList *activation_input, *activation_quant_scale, *activation_quant_offset;
  int64_t quant_group_size = 0;
};

aclError prepare(const OperatorTable& table, const Lists& in, int64_t split_item, int64_t group_type,
                 int64_t group_list_type, int64_t act_type, const aclTensorList* out,
                 const aclTensorList* activation_feature_out, const aclTensorList* dyn_quant_scale_out,
                 uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(table);
  call.single("x", in.x).single("weight", in.weight).at_most_single("bias", in.bias);
  call.at_most_single("scale", in.scale).at_most_single("offset", in.offset);
  call.at_most_single("antiquantScale", in.antiquant_scale).at_most_single("antiquantOffset", in.antiquant_offset);
  call.at_most_single("perTokenScale", in.per_token_scale).input("groupList", in.group_list);
  call.at_most_single("activationInput", in.activation_input);
  call.at_most_single("activationQuantScale", in.activation_quant_scale);
  call.at_most_single("activationQuantOffset", in.activation_quant_offset);
  call.integer("splitItem", split_item).integer("groupType", group_type);
  call.integer("groupListType", group_list_type).integer("actType", act_type);
  call.single("out", out, /*output=*/true);
  call.at_most_single("activationFeatureOut", activation_feature_out);
  call.at_most_single("dynQuantScaleOut", dyn_quant_scale_out);
  call.integer("quantGroupSize", in.quant_group_size);
  if (aclError error = call.check()) return error;
  const aclTensor& weight = *call.tensor("weight");
  Product product{view(call.tensor("x")),
                  view(call.tensor("bias")),
                  view(call.tensor("scale")),
                  view(call.tensor("antiquantScale")),
                  view(call.tensor("antiquantOffset")),
                  view(call.tensor("perTokenScale")),
                  view(in.group_list),
                  view(call.tensor("out")),
                  {},
                  group_list_type == 0};
  if (weight.format == kFractalNz) {
    product.weight = [in_tiles = tiles(weight)] { return from_tiles(in_tiles); };
  } else {
    product.weight = [plain = view(&weight)] { return plain; };
  }
  return call.finish(workspace_size, executor, [product] { multiply(product); });
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnGroupedMatmulV4GetWorkspaceSize(
    const aclTensorList* x, const aclTensorList* weight, const aclTensorList* bias, const aclTensorList* scale,
    const aclTensorList* offset, const aclTensorList* antiquant_scale, const aclTensorList* antiquant_offset,
    const aclTensorList* per_token_scale, const aclTensor* group_list, const aclTensorList* activation_input,
    const aclTensorList* activation_quant_scale, const aclTensorList* activation_quant_offset, int64_t split_item,
    int64_t group_type, int64_t group_list_type, int64_t act_type, aclTensorList* out,
    aclTensorList* activation_feature_out, aclTensorList* dyn_quant_scale_out, uint64_t* workspace_size,
    aclOpExecutor** executor) {
  return prepare(kGroupedMatmulV4,
                 {x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, per_token_scale, group_list,
                  activation_input, activation_quant_scale, activation_quant_offset},
                 split_item, group_type, group_list_type, act_type, out, activation_feature_out, dyn_quant_scale_out,
                 workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnGroupedMatmulV4)

// The tuning configuration is a hint: how many rows a group is expected to have.
ACL_API aclError aclnnGroupedMatmulV5GetWorkspaceSize(
    const aclTensorList* x, const aclTensorList* weight, const aclTensorList* bias, const aclTensorList* scale,
    const aclTensorList* offset, const aclTensorList* antiquant_scale, const aclTensorList* antiquant_offset,
    const aclTensorList* per_token_scale, const aclTensor* group_list, const aclTensorList* activation_input,
    const aclTensorList* activation_quant_scale, const aclTensorList* activation_quant_offset, int64_t split_item,
    int64_t group_type, int64_t group_list_type, int64_t act_type, aclIntArray*, aclTensorList* out,
    aclTensorList* activation_feature_out, aclTensorList* dyn_quant_scale_out, uint64_t* workspace_size,
    aclOpExecutor** executor) {
  return prepare(kGroupedMatmulV5,
                 {x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, per_token_scale, group_list,
                  activation_input, activation_quant_scale, activation_quant_offset},
                 split_item, group_type, group_list_type, act_type, out, activation_feature_out, dyn_quant_scale_out,
                 workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnGroupedMatmulV5)

ACL_API aclError aclnnGroupedMatmulWeightNzGetWorkspaceSize(
    const aclTensorList* x, const aclTensorList* weight, const aclTensorList* bias, const aclTensorList* scale,
    const aclTensorList* offset, const aclTensorList* antiquant_scale, const aclTensorList* antiquant_offset,
    const aclTensorList* per_token_scale, const aclTensor* group_list, const aclTensorList* activation_input,
    const aclTensorList* activation_quant_scale, const aclTensorList* activation_quant_offset, int64_t split_item,
    int64_t group_type, int64_t group_list_type, int64_t act_type, aclIntArray*, int64_t quant_group_size,
    aclTensorList* out, aclTensorList* activation_feature_out, aclTensorList* dyn_quant_scale_out,
    uint64_t* workspace_size, aclOpExecutor** executor) {
  return prepare(kGroupedMatmulWeightNz,
                 {x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, per_token_scale, group_list,
                  activation_input, activation_quant_scale, activation_quant_offset, quant_group_size},
                 split_item, group_type, group_list_type, act_type, out, activation_feature_out, dyn_quant_scale_out,
                 workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnGroupedMatmulWeightNz)
