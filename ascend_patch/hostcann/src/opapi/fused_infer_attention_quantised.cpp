// What int8 keys and values of aclnnFusedInferAttentionScore must fulfil beside the rules for others.
//
// Sources: V3.md (the function of A2 and A3) and V5.md (that of the 950) of CANN ops-transformer, and torch_npu's page of
// npu_fused_infer_attention_score; where they differ the strictest counts. V3 says both that int8 keys go with a block
// table when there are several query rows and that steps of keys and values do not; V5 and torch_npu say that they do not.
//
// Emulated: steps per tensor or channel (mode 0), one query row. Several rows (up to 16, bfloat16, no block table), steps
// per token or head, and the older pair antiquantScale and antiquantOffset for keys and values together are refused.
//
// That offsets are added before the scale is not on these pages; the kernels do so (op_kernel of incre_flash_attention).
#include "opapi/fused_infer_attention.h"

namespace hostcann::opapi::fia {

bool is_quantised(const Call& c) { return c.tensor("key")->dtype == kInt8; }

namespace {

constexpr const char* kSteps = "V5 pseudo quantisation";
constexpr const char* kOneRow = "V3 constraints, Q_S = 1, separate parameters of key and value";

bool scale_fits(const Call& c) {
  if (!c.has("keyAntiquantScale")) return true;
  const int64_t count = key_heads(c), size = head_size(c);
  const auto& shape = c.tensor("keyAntiquantScale")->shape;
  using Shape = std::vector<int64_t>;
  return shape == Shape{1} || shape == Shape{1, count, 1, size} || shape == Shape{1, count, size} ||
         shape == Shape{1, count * size};
}

bool like(const Call& c, const char* name, const char* other) {
  return !c.has(name) || (c.has(other) && c.same_dtype(name, other) && c.same_shape(name, other));
}

bool layout_fits(const Call& c) {
  return layout(c) == Layout::kBsh || layout(c) == Layout::kBsnd || layout(c) == Layout::kBnsd;
}

bool block_size_fits(const Call& c) {
  const int64_t size = c.integer("blockSize");
  return cache(c) == Cache::kNone || (size > 0 && size % 32 == 0 && size <= 512);
}

}  // namespace

std::vector<Rule> quantised_rules() {
  return {
      {"keyAntiquantScale", "given where key is int8, and only there", kSteps,
       [](const Call& c) { return c.has("keyAntiquantScale") == is_quantised(c); }},
      {"valueAntiquantScale", "given together with keyAntiquantScale", kSteps,
       [](const Call& c) { return c.has("keyAntiquantScale") == c.has("valueAntiquantScale"); }},
      {"valueAntiquantOffset", "given together with keyAntiquantOffset", kSteps,
       [](const Call& c) { return c.has("keyAntiquantOffset") == c.has("valueAntiquantOffset"); }},
      {"antiquantMode", "0", kSteps, [](const Call& c) { return c.integer("antiquantMode") == 0; }},
      {"keyAntiquantMode", "0, per tensor or channel (1 to 5 are not emulated)", kOneRow,
       [](const Call& c) { return c.integer("keyAntiquantMode") == 0; }},
      {"valueAntiquantMode", "0, per tensor or channel (1 to 5 are not emulated)", kOneRow,
       [](const Call& c) { return c.integer("valueAntiquantMode") == 0; }},
      {"keyAntiquantScale", "the type of query", kOneRow,
       [](const Call& c) { return !is_quantised(c) || c.same_dtype("query", "keyAntiquantScale"); }},
      {"keyAntiquantScale",
       "[1], or [1, heads, 1, head size], [1, heads, head size] or [1, heads * head size] with numKeyValueHeads heads",
       kOneRow, scale_fits},
      {"valueAntiquantScale", "type and shape of keyAntiquantScale", kOneRow,
       [](const Call& c) { return like(c, "valueAntiquantScale", "keyAntiquantScale"); }},
      {"keyAntiquantOffset", "type and shape of keyAntiquantScale", "V3 parameters, keyAntiquantOffset",
       [](const Call& c) { return like(c, "keyAntiquantOffset", "keyAntiquantScale"); }},
      {"valueAntiquantOffset", "type and shape of valueAntiquantScale", "V3 parameters, valueAntiquantOffset",
       [](const Call& c) { return like(c, "valueAntiquantOffset", "valueAntiquantScale"); }},
      {"inputLayout", "BSH, BSND or BNSD with int8 keys", kSteps,
       [](const Call& c) { return !is_quantised(c) || layout_fits(c); }},
      {"query",
       "one row with int8 keys (with a block table always; without one up to 16 in bfloat16, which is not emulated)",
       kSteps, [](const Call& c) { return !is_quantised(c) || max_queries(c) == 1; }},
      {"query", "a head size that is a multiple of 32 with int8 keys",
       "torch_npu.npu_fused_infer_attention_score, ranges of the axes",
       [](const Call& c) { return !is_quantised(c) || head_size(c) % 32 == 0; }},
      {"blockSize", "a multiple of 32, at most 512, with int8 keys", "V5 paged attention, pseudo quantisation",
       [](const Call& c) { return !is_quantised(c) || block_size_fits(c); }},
      {"sparseMode", "0 with int8 keys: one query row makes the others void", "torch_npu, sparse_mode",
       [](const Call& c) { return !is_quantised(c) || c.integer("sparseMode") == 0; }},
      {"attenMask", "3 or 4 dimensions with int8 keys", "V5 attention mask, pseudo quantisation",
       [](const Call& c) { return !is_quantised(c) || !c.has("attenMask") || c.dims("attenMask") >= 3; }},
      {"innerPrecise", "0 or 1 with int8 keys", "torch_npu, inner_precise, Q_S = 1",
       [](const Call& c) { return !is_quantised(c) || c.integer("innerPrecise") <= 1; }}};
}

}  // namespace hostcann::opapi::fia
