// aclnnFlashAttentionVarLenScore: attention over packed sequences (layout TND), forward only and without dropout.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "opapi/attention.h"
#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

int64_t heads(const Call& c) { return c.size("query", 1); }
int64_t key_heads(const Call& c) { return c.size("key", 1); }
int64_t sparse(const Call& c) { return c.integer("sparseMode"); }

int64_t length(const Call& c, const char* name, size_t index) {
  const auto& ends = *c.array(name);
  return ends[index] - (index ? ends[index - 1] : 0);
}

bool running_totals(const Call& c, const char* name, const char* tensor) {
  const auto* ends = c.array(name);
  return ends && !ends->empty() && ends->front() >= 0 && std::is_sorted(ends->begin(), ends->end()) &&
         ends->back() == c.size(tensor, 0);
}

// The longest sequences, which an explicit mask must cover.
int64_t longest(const Call& c, const char* name) {
  int64_t result = 0;
  for (size_t i = 0; i < c.array(name)->size(); ++i) result = std::max(result, length(c, name, i));
  return result;
}

bool mask_fits(const Call& c) {
  if (!c.has("attenMask")) return true;
  const auto& shape = c.tensor("attenMask")->shape;
  const size_t n = shape.size();
  if (sparse(c) >= 2) {
    return shape[n - 1] == 2048 && shape[n - 2] == 2048 && element_count(*c.tensor("attenMask")) == 2048 * 2048;
  }
  return n == 2 && shape[0] >= longest(c, "actualSeqQLen") && shape[1] >= longest(c, "actualSeqKvLen");
}

// Row-wise maximum and sum: torch-npu allocates [T, N, 8], the document writes [N, T, 8].
bool statistics_fit(const Call& c, const char* name) {
  return c.tensor(name)->shape == std::vector<int64_t>{c.size("query", 0), heads(c), 8};
}

const OperatorTable kFlashAttentionVarLenScore{
    "aclnnFlashAttentionVarLenScore", "CANN ops-transformer, aclnnFlashAttentionVarLenScore.md", kA2A3,
    {{"query", kFloats, 3, 3},
     {"key", kFloats, 3, 3},
     {"value", kFloats, 3, 3},
     unsupported("realShift"),
     unsupported("dropMask"),
     unsupported("paddingMask"),
     {"attenMask", dtypes(kBool, kUint8), 2, 4, true, Presence::kOptional},
     {"softmaxMax", dtypes(kFloat), 3, 3, true},
     {"softmaxSum", dtypes(kFloat), 3, 3, true},
     {"attentionOut", kFloats, 3, 3, true}},
    {{"inputLayout", "TND", "constraints, layout", [](const Call& c) { return c.text("inputLayout") == "TND"; }},
     {"key", "the type of query", "constraints, data types",
      [](const Call& c) { return c.same_dtype("query", "key"); }},
     {"value", "the type of query", "constraints, data types",
      [](const Call& c) { return c.same_dtype("query", "value"); }},
     {"query", "1 to 256 heads", "constraints, N", [](const Call& c) { return heads(c) >= 1 && heads(c) <= 256; }},
     {"headNum", "the heads of query", "parameters, headNum",
      [](const Call& c) { return c.integer("headNum") == heads(c); }},
     {"key", "a number of heads that divides query's", "constraints, N",
      [](const Call& c) { return key_heads(c) > 0 && heads(c) % key_heads(c) == 0; }},
     {"query", "1 to 1048576 tokens", "constraints, T",
      [](const Call& c) { return c.size("query", 0) >= 1 && c.size("query", 0) <= 1 << 20; }},
     {"query", "a head size of 1 to 768", "constraints, D",
      [](const Call& c) { return c.size("query", 2) >= 1 && c.size("query", 2) <= 768; }},
     {"key", "the head size of query", "constraints, D",
      [](const Call& c) { return c.size("key", 2) == c.size("query", 2); }},
     {"value", "the tokens and heads of key, and a head size of at most key's", "constraints, D",
      [](const Call& c) {
        return c.size("value", 0) == c.size("key", 0) && c.size("value", 1) == key_heads(c) &&
               c.size("value", 2) >= 1 && c.size("value", 2) <= c.size("key", 2);
      }},
     {"actualSeqQLen", "running totals that end with the tokens of query", "parameters, actualSeqQLen",
      [](const Call& c) { return running_totals(c, "actualSeqQLen", "query"); }},
     {"actualSeqKvLen", "running totals that end with the tokens of key", "parameters, actualSeqKvLen",
      [](const Call& c) { return running_totals(c, "actualSeqKvLen", "key"); }},
     {"actualSeqKvLen", "as many entries as actualSeqQLen", "constraints, B",
      [](const Call& c) { return c.array("actualSeqQLen")->size() == c.array("actualSeqKvLen")->size(); }},
     {"actualSeqQLen", "at most 2048 entries", "constraints, actualSeqQLen",
      [](const Call& c) { return c.array("actualSeqQLen")->size() <= 2048; }},
     {"keepProb", "1 (dropout is not emulated)", "constraints, keepProb",
      [](const Call& c) { return c.real("keepProb") == 1.0; }},
     {"sparseMode", "0 to 4 (others are not emulated)", "parameters, sparseMode",
      [](const Call& c) { return sparse(c) >= 0 && sparse(c) <= 4; }},
     {"attenMask", "required for sparseMode 1 to 4", "constraints, sparseMode",
      [](const Call& c) { return sparse(c) == 0 || c.has("attenMask"); }},
     {"attenMask", "2048 x 2048 for sparseMode 2, 3 and 4; else [query rows, key rows] or larger",
      "constraints, sparseMode", mask_fits},
     {"actualSeqKvLen", "with sparseMode 3 no sequence with fewer keys than queries", "constraints, sparseMode 3",
      [](const Call& c) {
        for (size_t i = 0; sparse(c) == 3 && i < c.array("actualSeqQLen")->size(); ++i) {
          if (length(c, "actualSeqQLen", i) > length(c, "actualSeqKvLen", i)) return false;
        }
        return true;
      }},
     {"preTokens", "preTokens + nextTokens >= 0", "constraints, band",
      [](const Call& c) {
        return (sparse(c) != 0 && sparse(c) != 4) || !c.has("attenMask") ||
               c.integer("preTokens") + c.integer("nextTokens") >= 0;
      }},
     {"softmaxMax", "[T, heads, 8]", "parameters, softmaxMaxOut",
      [](const Call& c) { return statistics_fit(c, "softmaxMax"); }},
     {"softmaxSum", "[T, heads, 8]", "parameters, softmaxSumOut",
      [](const Call& c) { return statistics_fit(c, "softmaxSum"); }},
     {"attentionOut", "the type of query", "parameters, attentionOutOut",
      [](const Call& c) { return c.same_dtype("query", "attentionOut"); }},
     {"attentionOut", "the shape of query with the head size of value", "parameters, attentionOutOut",
      [](const Call& c) {
        return c.tensor("attentionOut")->shape ==
               std::vector<int64_t>{c.size("query", 0), heads(c), c.size("value", 2)};
      }}}};

Visibility visibility_of(const Call& c) {
  Visibility v;
  const aclTensor* mask = c.tensor("attenMask");
  if (mask == nullptr) return v;  // documented: without a mask sparseMode and the token limits have no effect
  v.aligned_at_end = sparse(c) == 3 || sparse(c) == 4;
  if (sparse(c) == 2 || sparse(c) == 3) v.after = 0;
  if (sparse(c) == 0 || sparse(c) == 4) {
    v.before = c.integer("preTokens");
    v.after = c.integer("nextTokens");
  }
  if (sparse(c) < 2) {
    v.mask = static_cast<const uint8_t*>(first_element(*mask));
    v.mask_row_stride = mask->shape.back();
  }
  return v;
}

// The tensors stay alive in the closure: inputs with gaps are copied when the operator runs.
struct Packed {
  at::Tensor query, key, value;
  Attention problem;
};

void compute(const Packed& packed) {
  const at::Tensor query = packed.query.contiguous(), key = packed.key.contiguous(), value = packed.value.contiguous();
  Attention p = packed.problem;
  p.query = query.const_data_ptr();
  p.key = key.const_data_ptr();
  p.value = value.const_data_ptr();
  compute_attention(p);
}

Attention problem_of(const Call& c, double scale) {
  Attention p{};
  p.name = kFlashAttentionVarLenScore.name;
  p.dtype = c.tensor("query")->dtype;
  p.output = first_element(*c.tensor("attentionOut"));
  p.max = static_cast<float*>(first_element(*c.tensor("softmaxMax")));
  p.sum = static_cast<float*>(first_element(*c.tensor("softmaxSum")));
  p.heads = heads(c);
  p.key_heads = key_heads(c);
  p.head_size = c.size("query", 2);
  p.value_size = c.size("value", 2);
  p.scale = static_cast<float>(scale);
  p.query_strides = {p.heads * p.head_size, p.head_size};
  p.key_strides = {p.key_heads * p.head_size, p.head_size};
  p.value_strides = {p.key_heads * p.value_size, p.value_size};
  p.output_strides = {p.heads * p.value_size, p.value_size};
  p.lse_strides = {p.heads, 1};
  p.visibility = visibility_of(c);
  int64_t query = 0, key = 0;  // tokens before this sequence
  for (size_t i = 0; i < c.array("actualSeqQLen")->size(); ++i) {
    Sequence s{};
    s.queries = length(c, "actualSeqQLen", i);
    s.keys = length(c, "actualSeqKvLen", i);
    s.query_offset = query * p.query_strides.row;
    s.output_offset = query * p.output_strides.row;
    s.lse_offset = query * p.heads;
    s.key_offset = key * p.key_strides.row;
    s.value_offset = key * p.value_strides.row;
    p.sequences.push_back(s);
    query += s.queries;
    key += s.keys;
  }
  return p;
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnFlashAttentionVarLenScoreGetWorkspaceSize(
    const aclTensor* query, const aclTensor* key, const aclTensor* value, const aclTensor* real_shift,
    const aclTensor* drop_mask, const aclTensor* padding_mask, const aclTensor* atten_mask, const aclIntArray*,
    const aclIntArray* lengths_q, const aclIntArray* lengths_kv, double scale, double keep_prob, int64_t pre_tokens,
    int64_t next_tokens, int64_t head_num, char* input_layout, int64_t, int64_t sparse_mode,
    const aclTensor* softmax_max, const aclTensor* softmax_sum, const aclTensor*, const aclTensor* output,
    uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kFlashAttentionVarLenScore);
  call.input("query", query).input("key", key).input("value", value).input("realShift", real_shift);
  call.input("dropMask", drop_mask).input("paddingMask", padding_mask).input("attenMask", atten_mask);
  call.array("actualSeqQLen", lengths_q).array("actualSeqKvLen", lengths_kv).real("keepProb", keep_prob);
  call.integer("preTokens", pre_tokens).integer("nextTokens", next_tokens).integer("headNum", head_num);
  call.text("inputLayout", input_layout).integer("sparseMode", sparse_mode);
  call.output("softmaxMax", softmax_max).output("softmaxSum", softmax_sum).output("attentionOut", output);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [p = Packed{view(query), view(key), view(value), problem_of(call, scale)}] { compute(p); });
}
HOSTCANN_OPERATOR_RUN(aclnnFlashAttentionVarLenScore)
