// aclnnMoeInitRoutingV3 and aclnnMoeFinalizeRoutingV2: tokens to their experts, and the experts' answers back.
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

int64_t slots(const Call& c) { return c.size("expertIdx", 0) * c.size("expertIdx", 1); }

bool range_in_experts(const Call& c) {
  const auto* range = c.array("activeExpertRange");
  return range != nullptr && range->size() == 2 && (*range)[0] >= 0 && (*range)[0] < (*range)[1] &&
         (*range)[1] <= c.integer("expertNum");
}

constexpr DtypeSet kRouted = kFloats | dtypes(kInt8);

const OperatorTable kMoeInitRouting{
    "aclnnMoeInitRoutingV3", "CANN ops-transformer, aclnnMoeInitRoutingV3.md", kA2A3A5,
    {{"x", kRouted, 2, 2, true},
     {"expertIdx", dtypes(kInt32), 2, 2, true},
     unsupported("scale"),
     unsupported("offset"),
     {"expandedXOut", kRouted, 2, 2, true},
     {"expandedRowIdxOut", dtypes(kInt32), 1, 1, true},
     {"expertTokensCountOrCumsumOut", dtypes(kInt64), 1, 1, true},
     {"expandedScaleOut", dtypes(kFloat), 1, 1}},
    {{"expertIdx", "the rows of x", "parameters, expertIdx",
      [](const Call& c) { return c.size("expertIdx", 0) == c.size("x", 0); }, kTilingError},
     {"activeNum", "rows of x * experts per row, which all products take", "products, activeNum",
      [](const Call& c) { return c.integer("activeNum") == slots(c); }, kTilingError},
     {"expertNum", "1 to 10240", "parameters, expertNum",
      [](const Call& c) { return c.integer("expertNum") >= 1 && c.integer("expertNum") <= 10240; }, kTilingError},
     {"dropPadMode", "0, nothing is dropped (1 is not emulated)", "parameters, dropPadMode",
      [](const Call& c) { return c.integer("dropPadMode") == 0; }, kTilingError},
     {"expertTokensNumType", "1, counts (0 and 2 are not emulated)", "parameters, expertTokensNumType",
      [](const Call& c) { return c.integer("expertTokensNumType") == 1; }, kTilingError},
     {"expertTokensNumFlag", "true, which all products take", "products, expertTokensNumFlag",
      [](const Call& c) { return c.integer("expertTokensNumFlag") == 1; }, kTilingError},
     {"quantMode", "-1, no quantisation (others are not emulated)", "parameters, quantMode",
      [](const Call& c) { return c.integer("quantMode") == -1; }, kTilingError},
     {"activeExpertRange", "[start, end] with 0 <= start < end <= expertNum", "parameters, activeExpertRangeOptional",
      range_in_experts, kTilingError},
     {"rowIdxType", "0 (gather) or 1 (scatter)", "parameters, rowIdxType",
      [](const Call& c) { return c.integer("rowIdxType") == 0 || c.integer("rowIdxType") == 1; }, kTilingError},
     {"expandedXOut", "the type of x", "parameters, expandedXOut",
      [](const Call& c) { return c.same_dtype("x", "expandedXOut"); }},
     {"expandedXOut", "[rows of x * experts per row, columns of x]", "parameters, expandedXOut",
      [](const Call& c) {
        return c.size("expandedXOut", 0) == slots(c) && c.size("expandedXOut", 1) == c.size("x", 1);
      },
      kTilingError},
     {"expandedRowIdxOut", "[rows of x * experts per row]", "parameters, expandedRowIdxOut",
      [](const Call& c) { return c.size("expandedRowIdxOut", 0) == slots(c); }, kTilingError},
     {"expertTokensCountOrCumsumOut", "[end - start] of the active experts", "parameters, expertTokensCountOrCumsumOut",
      [](const Call& c) {
        const auto& range = *c.array("activeExpertRange");
        return c.size("expertTokensCountOrCumsumOut", 0) == range[1] - range[0];
      },
      kTilingError}}};

struct Routing {
  const char* x;
  const int32_t* experts;
  int64_t rows, per_row, row_bytes, expert_count, first, end;
  bool scatter;
  char* expanded;
  int32_t* row_index;
  int64_t* counts;
};

// Slots (row * per_row + choice) ordered by expert, as they come within an expert.
void route(const Routing& r) {
  const int64_t total = r.rows * r.per_row;
  std::fill(r.counts, r.counts + (r.end - r.first), 0);
  for (int64_t slot = 0; slot < total; ++slot) {
    const int64_t expert = r.experts[slot];
    if (expert < 0 || expert >= r.expert_count) {
      throw std::runtime_error("aclnnMoeInitRoutingV3: expertIdx[" + std::to_string(slot / r.per_row) + ", " +
                               std::to_string(slot % r.per_row) + "] is " + std::to_string(expert) +
                               "; allowed: 0 to expertNum - 1 = " + std::to_string(r.expert_count - 1) +
                               " (source: parameters, expertIdx)");
    }
    if (expert >= r.first && expert < r.end) ++r.counts[expert - r.first];
  }
  std::vector<int64_t> next(r.end - r.first, 0);
  std::partial_sum(r.counts, r.counts + (r.end - r.first - 1), next.begin() + 1);
  // A gather index says for each slot where its row went; -1 where its expert is not active.
  if (!r.scatter) std::fill(r.row_index, r.row_index + total, -1);
  for (int64_t slot = 0; slot < total; ++slot) {
    const int64_t expert = r.experts[slot];
    if (expert < r.first || expert >= r.end) continue;
    const int64_t place = next[expert - r.first]++;
    r.row_index[r.scatter ? place : slot] = static_cast<int32_t>(r.scatter ? slot : place);
    std::memcpy(r.expanded + place * r.row_bytes, r.x + slot / r.per_row * r.row_bytes, r.row_bytes);
  }
}

int64_t choices(const Call& c) { return c.has("scales") ? c.size("scales", 1) : 1; }

// Modes 1 and 3 have a row index of -1 for what was dropped, and rows by expert and place: [experts, capacity, columns].
bool drops(const Call& c) { return c.integer("dropPadMode") % 2 == 1; }

int64_t answer_columns(const Call& c) { return c.size("expandedX", drops(c) ? 2 : 1); }

bool like_out(const Call& c, const char* name) { return !c.has(name) || c.same_shape("out", name); }

bool like_x(const Call& c, const char* name) { return !c.has(name) || c.same_dtype("expandedX", name); }

bool scale_type(const Call& c) {
  return like_x(c, "scales") || (c.tensor("expandedX")->dtype == kBf16 && c.tensor("scales")->dtype == kFloat);
}

constexpr Families k310P = family(SocFamily::k310P);
constexpr Families kAllBut950 = kAllFamilies & ~family(SocFamily::k950);

const OperatorTable kMoeFinalizeRouting{
    "aclnnMoeFinalizeRoutingV2", "CANN ops-transformer, aclnnMoeFinalizeRoutingV2.md", kAllFamilies,
    {{"expandedX", kFloats, 2, 3, true},
     {"expandedRowIdx", dtypes(kInt32), 1, 1, true},
     {"x1", kFloats, 2, 2, false, Presence::kOptional},
     {"x2", kFloats, 2, 2, false, Presence::kOptional},
     {"bias", kFloats, 2, 2, false, Presence::kOptional},
     {"scales", kFloats, 2, 2, false, Presence::kOptional},
     {"expertIdx", dtypes(kInt32), 2, 2, false, Presence::kOptional},
     {"out", kFloats, 2, 2, true}},
    {{"dropPadMode", "0 to 3", "parameters, dropPadMode",
      [](const Call& c) { return c.integer("dropPadMode") >= 0 && c.integer("dropPadMode") <= 3; }, kTilingError},
     {"expandedX", "2 dimensions, with dropPadMode 1 and 3 [experts, capacity, columns]", "parameters, expandedX",
      [](const Call& c) { return c.tensor("expandedX")->shape.size() == (drops(c) ? 3u : 2u); }, kTilingError},
     {"expandedX", "with dropPadMode 1 and 3 at least as many experts as a row has", "constraints, E",
      [](const Call& c) { return !drops(c) || c.size("expandedX", 0) >= choices(c); }, kTilingError},
     {"dropPadMode", "2", "parameters, Atlas inference products",
      [](const Call& c) { return c.integer("dropPadMode") == 2; }, kTilingError, k310P},
     {"expandedX", "a last dimension aligned to 32 elements", "parameters, Atlas inference products",
      [](const Call& c) { return answer_columns(c) % 32 == 0; }, kTilingError, k310P},
     {"x1", "no tensor, nor x2, bias and expertIdx", "parameters, Atlas inference products",
      [](const Call& c) { return !c.has("x1") && !c.has("x2") && !c.has("bias") && !c.has("expertIdx"); },
      kAclnnInvalidParam, k310P},
     {"x2", "only beside x1", "constraints, x2Optional", [](const Call& c) { return !c.has("x2") || c.has("x1"); },
      kTilingError},
     {"bias", "only beside expertIdx", "constraints, biasOptional",
      [](const Call& c) { return !c.has("bias") || c.has("expertIdx"); }, kTilingError},
     {"x1", "the type of expandedX", "parameters, x1Optional", [](const Call& c) { return like_x(c, "x1"); }},
     {"x2", "the type of expandedX", "parameters, x2Optional", [](const Call& c) { return like_x(c, "x2"); }},
     {"bias", "the type of expandedX", "parameters, biasOptional", [](const Call& c) { return like_x(c, "bias"); }},
     {"scales", "the type of expandedX, or float32 beside bfloat16", "parameters, scalesOptional", scale_type,
      kAclnnInvalidParam, kAllBut950},
     {"out", "the type of expandedX", "parameters, out", [](const Call& c) { return like_x(c, "out"); }},
     {"out", "the columns of expandedX", "parameters, out",
      [](const Call& c) { return c.size("out", 1) == answer_columns(c); }, kTilingError},
     {"scales", "one row per row of out", "parameters, scalesOptional",
      [](const Call& c) { return !c.has("scales") || c.size("scales", 0) == c.size("out", 0); }, kTilingError},
     {"expandedRowIdx", "rows of out * experts per row (one without scales)", "parameters, expandedRowIdx",
      [](const Call& c) { return c.size("expandedRowIdx", 0) == c.size("out", 0) * choices(c); }, kTilingError},
     {"expandedX", "one row per entry of expandedRowIdx where nothing is dropped", "parameters, expandedX",
      [](const Call& c) { return drops(c) || c.size("expandedX", 0) == c.size("expandedRowIdx", 0); }, kTilingError},
     {"expertIdx", "[rows of out, experts per row]", "parameters, expertIdxOptional",
      [](const Call& c) {
        return !c.has("expertIdx") ||
               (c.size("expertIdx", 0) == c.size("out", 0) && c.size("expertIdx", 1) == choices(c));
      },
      kTilingError},
     {"x1", "the shape of out", "parameters, x1Optional", [](const Call& c) { return like_out(c, "x1"); },
      kTilingError},
     {"x2", "the shape of out", "parameters, x2Optional", [](const Call& c) { return like_out(c, "x2"); },
      kTilingError},
     {"bias", "with dropPadMode 1 and 3 a row for each expert of expandedX", "parameters, biasOptional",
      [](const Call& c) { return !c.has("bias") || !drops(c) || c.size("bias", 0) == c.size("expandedX", 0); },
      kTilingError},
     {"bias", "as many columns as out, and a row for at least as many experts as a row has", "parameters, biasOptional",
      [](const Call& c) {
        return !c.has("bias") || (c.size("bias", 1) == c.size("out", 1) && c.size("bias", 0) >= choices(c));
      },
      kTilingError}}};

at::Tensor wide(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kFloat).contiguous() : tensor; }

struct Combination {
  at::Tensor x, row_index, x1, x2, bias, scales, experts, out;
  bool by_column;  // entries of all rows' first choices first
  bool drops;      // an entry of -1 adds nothing, not even its bias
};

int64_t within(const char* what, int64_t at, int64_t value, int64_t limit) {
  if (value >= 0 && value < limit) return value;
  throw std::runtime_error("aclnnMoeFinalizeRoutingV2: " + std::string(what) + "[" + std::to_string(at) + "] is " +
                           std::to_string(value) + "; allowed: 0 to " + std::to_string(limit - 1) +
                           " (source: constraints)");
}

void combine(const Combination& c) {
  const int64_t rows = c.out.size(0), columns = c.out.size(1);
  const int64_t per_row = c.scales.defined() ? c.scales.size(1) : 1;
  const at::Tensor sum = at::zeros(c.out.sizes(), at::kFloat);
  const at::Tensor x = wide(c.x).flatten(0, -2), scales = wide(c.scales), bias = wide(c.bias);
  const at::Tensor experts = c.experts.defined() ? c.experts.contiguous() : c.experts;
  const auto* index = c.row_index.const_data_ptr<int32_t>();
  auto* to = sum.mutable_data_ptr<float>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t choice = 0; choice < per_row; ++choice) {
      const int64_t entry = c.by_column ? choice * rows + row : row * per_row + choice;
      if (c.drops && index[entry] == -1) continue;
      const int64_t place = within("expandedRowIdx", entry, index[entry], x.size(0));
      const float* from = x.const_data_ptr<float>() + place * columns;
      const float scale = scales.defined() ? scales.const_data_ptr<float>()[row * per_row + choice] : 1.0f;
      const float* offset = nullptr;
      if (bias.defined()) {
        const int64_t at = row * per_row + choice;
        offset = bias.const_data_ptr<float>() +
                 within("expertIdx", at, experts.const_data_ptr<int32_t>()[at], bias.size(0)) * columns;
      }
      for (int64_t i = 0; i < columns; ++i) {
        to[row * columns + i] += scale * (from[i] + (offset == nullptr ? 0.0f : offset[i]));
      }
    }
  }
  if (c.x1.defined()) sum.add_(c.x1);
  if (c.x2.defined()) sum.add_(c.x2);
  c.out.copy_(sum);
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnMoeInitRoutingV3GetWorkspaceSize(
    const aclTensor* x, const aclTensor* expert_idx, const aclTensor* scale, const aclTensor* offset,
    int64_t active_num, int64_t expert_capacity, int64_t expert_num, int64_t drop_pad_mode,
    int64_t expert_tokens_num_type, bool expert_tokens_num_flag, int64_t quant_mode,
    const aclIntArray* active_expert_range, int64_t row_idx_type, const aclTensor* expanded_x,
    const aclTensor* expanded_row_idx, const aclTensor* expert_tokens, const aclTensor* expanded_scale,
    uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kMoeInitRouting);
  call.input("x", x).input("expertIdx", expert_idx).input("scale", scale).input("offset", offset);
  call.integer("activeNum", active_num).integer("expertCapacity", expert_capacity).integer("expertNum", expert_num);
  call.integer("dropPadMode", drop_pad_mode).integer("expertTokensNumType", expert_tokens_num_type);
  call.integer("expertTokensNumFlag", expert_tokens_num_flag).integer("quantMode", quant_mode);
  call.array("activeExpertRange", active_expert_range).integer("rowIdxType", row_idx_type);
  call.output("expandedXOut", expanded_x).output("expandedRowIdxOut", expanded_row_idx);
  call.output("expertTokensCountOrCumsumOut", expert_tokens).output("expandedScaleOut", expanded_scale);
  if (aclError error = call.check()) return error;
  const Routing routing{static_cast<const char*>(first_element(*x)),
                        static_cast<const int32_t*>(first_element(*expert_idx)),
                        call.size("expertIdx", 0),
                        call.size("expertIdx", 1),
                        call.size("x", 1) * static_cast<int64_t>(element_size(x->dtype)),
                        expert_num,
                        active_expert_range->values[0],
                        active_expert_range->values[1],
                        row_idx_type == 1,
                        static_cast<char*>(first_element(*expanded_x)),
                        static_cast<int32_t*>(first_element(*expanded_row_idx)),
                        static_cast<int64_t*>(first_element(*expert_tokens))};
  return call.finish(workspace_size, executor, [routing] { route(routing); });
}
HOSTCANN_OPERATOR_RUN(aclnnMoeInitRoutingV3)

ACL_API aclError aclnnMoeFinalizeRoutingV2GetWorkspaceSize(
    const aclTensor* expanded_x, const aclTensor* expanded_row_idx, const aclTensor* x1, const aclTensor* x2,
    const aclTensor* bias, const aclTensor* scales, const aclTensor* expert_idx, int64_t drop_pad_mode,
    const aclTensor* out, uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kMoeFinalizeRouting);
  call.input("expandedX", expanded_x).input("expandedRowIdx", expanded_row_idx).input("x1", x1).input("x2", x2);
  call.input("bias", bias).input("scales", scales).input("expertIdx", expert_idx);
  call.integer("dropPadMode", drop_pad_mode).output("out", out);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [combination = Combination{view(expanded_x), view(expanded_row_idx), view(x1), view(x2),
                                                view(bias), view(scales), view(expert_idx), view(out),
                                                drop_pad_mode < 2, drop_pad_mode % 2 == 1}] { combine(combination); });
}
HOSTCANN_OPERATOR_RUN(aclnnMoeFinalizeRoutingV2)
