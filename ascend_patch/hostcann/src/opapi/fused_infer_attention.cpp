// aclnnFusedInferAttentionScoreV3 and V5: attention for inference, over a paged or a contiguous key/value cache.
#include "opapi/fused_infer_attention.h"

#include <stdexcept>
#include <string>

#include "opapi/attention.h"
#include "opapi/tensors.h"

namespace hostcann::opapi::fia {
namespace {

int64_t head_stride(Layout l, int64_t rows, int64_t size) {
  return l == Layout::kBnsd || l == Layout::kBnsdBsnd ? rows * size : size;
}

// Row and head strides of a contiguous tensor in `l` with `rows` rows per batch entry.
Strides strides_of(Layout l, int64_t rows, int64_t count, int64_t size) {
  const bool heads_first = l == Layout::kBnsd || l == Layout::kBnsdBsnd;
  return {heads_first ? size : count * size, head_stride(l, rows, size)};
}

Strides cache_strides(const Call& c, const char* name, int64_t size) {
  const int64_t count = key_heads(c), block = c.integer("blockSize");
  if (cache(c) == Cache::kBnBsH) return {count * size, size, block * count * size};
  return {size, block * size, block * count * size};
}

Visibility visibility_of(const Call& c) {
  Visibility v;
  const int64_t mode = c.integer("sparseMode");
  const aclTensor* mask = c.tensor("attenMask");
  if (mask == nullptr) return v;  // sparseMode 0: everything is visible, preTokens and nextTokens count for nothing
  if (mode == 2 || mode == 3) {
    v.aligned_at_end = mode == 3;
    v.after = 0;
    return v;
  }
  // preTokens and nextTokens of a single query row outside TND are documented to have no effect (V3, preTokens).
  const bool band = layout(c) == Layout::kTnd || max_queries(c) > 1;
  if (mode == 4) {
    if (!band) return v;
    v.aligned_at_end = true;
    v.before = c.integer("preTokens");
    v.after = c.integer("nextTokens");
    return v;
  }
  if (mode == 0 && band) {
    v.before = c.integer("preTokens");
    v.after = c.integer("nextTokens");
  }
  const auto& shape = mask->shape;
  v.mask = static_cast<const uint8_t*>(first_element(*mask));
  v.mask_row_stride = shape.back();
  v.mask_batch_stride = shape.size() > 2 && shape[0] > 1 ? shape[shape.size() - 2] * shape.back() : 0;
  return v;
}

std::vector<Sequence> sequences_of(const Call& c, int64_t size, int64_t width) {
  std::vector<Sequence> sequences;
  const int64_t count = heads(c), key_count = key_heads(c);
  const bool tnd = layout(c) == Layout::kTnd;
  const int64_t query_rows = tnd ? 0 : lse_shape(c)[2];
  int64_t first_query = 0, first_key = 0;  // rows before this sequence
  for (int64_t i = 0; i < batch(c); ++i) {
    Sequence s{queries(c, i), keys(c, i), 0, 0, 0, 0, 0};
    s.query_offset = first_query * count * size;
    s.output_offset = first_query * count * width;
    s.lse_offset = first_query * count;
    s.query_rope_offset = first_query * count * kRopeSize;
    if (cache(c) == Cache::kNone) {
      s.key_offset = first_key * key_count * size;
      s.value_offset = first_key * key_count * width;
    }
    first_query += tnd ? s.queries : query_rows;
    first_key += tnd ? s.keys : key_capacity(c);
    sequences.push_back(s);
  }
  return sequences;
}

Attention attention_of(const Call& c, const char* name, double scale) {
  const Layout l = layout(c);
  const int64_t size = head_size(c), width = value_size(c);
  Attention p{};
  p.name = name;
  p.dtype = c.tensor("query")->dtype;
  p.query = first_element(*c.tensor("query"));
  p.key = first_element(*c.tensor("key"));
  p.value = first_element(*c.tensor("value"));
  p.output = first_element(*c.tensor("attentionOut"));
  if (c.integer("softmaxLseFlag")) p.lse = static_cast<float*>(first_element(*c.tensor("softmaxLse")));
  p.heads = heads(c);
  p.key_heads = key_heads(c);
  p.head_size = size;
  p.value_size = width;
  p.scale = static_cast<float>(scale);
  const int64_t query_rows = l == Layout::kTnd ? c.size("query", 0) : lse_shape(c)[2];
  p.query_strides = strides_of(l, query_rows, p.heads, size);
  p.output_strides = strides_of(l == Layout::kBnsdBsnd ? Layout::kBsnd : l, query_rows, p.heads, width);
  p.lse_strides = l == Layout::kTnd ? Strides{p.heads, 1} : Strides{1, query_rows};
  if (cache(c) == Cache::kNone) {
    p.key_strides = strides_of(l, key_capacity(c), p.key_heads, size);
    p.value_strides = strides_of(l, key_capacity(c), p.key_heads, width);
  } else {
    p.key_strides = cache_strides(c, "key", size);
    p.value_strides = cache_strides(c, "value", width);
    p.block_table = static_cast<const int32_t*>(first_element(*c.tensor("blockTable")));
    p.block_table_stride = c.size("blockTable", 1);
    p.block_size = c.integer("blockSize");
    p.block_count = c.size("key", 0);
  }
  if (c.has("queryRope")) {
    p.query_rope = first_element(*c.tensor("queryRope"));
    p.key_rope = first_element(*c.tensor("keyRope"));
    p.rope_size = kRopeSize;
    p.query_rope_strides = strides_of(l, query_rows, p.heads, kRopeSize);
    p.key_rope_strides = cache_strides(c, "keyRope", kRopeSize);
  }
  p.visibility = visibility_of(c);
  p.sequences = sequences_of(c, size, width);
  return p;
}

// The compressed mask of sparseMode 2 to 4 must exclude what lies above the diagonal (V5, attention mask: "the user
// ensures a lower triangular mask"). The hardware reads tiles of it; a wrong mask gives wrong results there, so a few
// telling elements are looked at here.
void require_triangular(const char* name, const uint8_t* mask) {
  const auto at = [mask](int64_t row, int64_t column) { return mask[row * 2048 + column] != 0; };
  for (int64_t i : {0, 1, 511, 1023, 2046}) {
    if (at(i, i) || at(2047, i) || !at(i, i + 1) || !at(i, 2047)) {
      throw std::runtime_error(std::string(name) + ": attenMask must be 1 above the diagonal and 0 elsewhere for "
                                                   "sparseMode 2, 3 and 4 (source: V5 attention mask)");
    }
  }
}

// One number for all, or one for each channel of each head.
std::vector<float> channels(const at::Tensor& parameter, int64_t count) {
  if (!parameter.defined()) return {};
  const at::Tensor all = parameter.to(at::kFloat).flatten().expand({count}).contiguous();
  return {all.data_ptr<float>(), all.data_ptr<float>() + count};
}

aclError prepare(const Call& c, const char* name, uint64_t* workspace_size, aclOpExecutor** executor) {
  const uint8_t* compressed = nullptr;
  if (c.has("attenMask") && c.integer("sparseMode") >= 2) {
    compressed = static_cast<const uint8_t*>(first_element(*c.tensor("attenMask")));
  }
  const auto steps = [&c](const char* argument) { return view(c.tensor(argument)); };
  return c.finish(workspace_size, executor,
                  [p = attention_of(c, name, c.real("scaleValue")), compressed, ks = steps("keyAntiquantScale"),
                   ko = steps("keyAntiquantOffset"), vs = steps("valueAntiquantScale"),
                   vo = steps("valueAntiquantOffset")]() mutable {
                    if (compressed != nullptr) require_triangular(p.name, compressed);
                    const int64_t keys = p.key_heads * p.head_size, values = p.key_heads * p.value_size;
                    p.key_steps = {channels(ks, keys), channels(ko, keys)};
                    p.value_steps = {channels(vs, values), channels(vo, values)};
                    compute_attention(p);
                  });
}

}  // namespace
}  // namespace hostcann::opapi::fia

using namespace hostcann;
using namespace hostcann::opapi;

// The arguments that V3 and V5 share, in the order of the V3 interface.
#define FIA_TENSORS                                                                                                   \
  const aclTensor *query, const aclTensorList *key, const aclTensorList *value, const aclTensor *pse_shift,           \
      const aclTensor *atten_mask, const aclIntArray *lengths_q, const aclIntArray *lengths_kv,                       \
      const aclTensor *deq_scale1, const aclTensor *quant_scale1, const aclTensor *deq_scale2,                        \
      const aclTensor *quant_scale2, const aclTensor *quant_offset2, const aclTensor *antiquant_scale,                \
      const aclTensor *antiquant_offset, const aclTensor *block_table, const aclTensor *query_padding,                \
      const aclTensor *kv_padding, const aclTensor *key_antiquant_scale, const aclTensor *key_antiquant_offset,       \
      const aclTensor *value_antiquant_scale, const aclTensor *value_antiquant_offset,                                \
      const aclTensor *key_shared_prefix, const aclTensor *value_shared_prefix, const aclIntArray *,                  \
      const aclTensor *query_rope, const aclTensor *key_rope, const aclTensor *key_rope_antiquant_scale

#define FIA_NUMBERS                                                                                                   \
  int64_t num_heads, double scale, int64_t pre_tokens, int64_t next_tokens, char *input_layout,                       \
      int64_t num_key_value_heads, int64_t sparse_mode, int64_t inner_precise, int64_t block_size,                    \
      int64_t antiquant_mode, bool lse_flag, int64_t key_antiquant_mode, int64_t value_antiquant_mode

#define FIA_COLLECT(call)                                                                                             \
  call.input("query", query).single("key", key).single("value", value).input("pseShift", pse_shift);                  \
  call.input("attenMask", atten_mask).array("actualSeqLengths", lengths_q).array("actualSeqLengthsKv", lengths_kv);   \
  call.input("deqScale1", deq_scale1).input("quantScale1", quant_scale1).input("deqScale2", deq_scale2);              \
  call.input("quantScale2", quant_scale2).input("quantOffset2", quant_offset2);                                       \
  call.input("antiquantScale", antiquant_scale).input("antiquantOffset", antiquant_offset);                           \
  call.input("blockTable", block_table).input("queryPaddingSize", query_padding).input("kvPaddingSize", kv_padding);  \
  call.input("keyAntiquantScale", key_antiquant_scale).input("keyAntiquantOffset", key_antiquant_offset);             \
  call.input("valueAntiquantScale", value_antiquant_scale).input("valueAntiquantOffset", value_antiquant_offset);     \
  call.input("keySharedPrefix", key_shared_prefix).input("valueSharedPrefix", value_shared_prefix);                   \
  call.input("queryRope", query_rope).input("keyRope", key_rope);                                                     \
  call.input("keyRopeAntiquantScale", key_rope_antiquant_scale);                                                      \
  call.integer("numHeads", num_heads).real("scaleValue", scale).integer("preTokens", pre_tokens);                     \
  call.integer("nextTokens", next_tokens).text("inputLayout", input_layout);                                          \
  call.integer("numKeyValueHeads", num_key_value_heads).integer("sparseMode", sparse_mode);                           \
  call.integer("innerPrecise", inner_precise).integer("blockSize", block_size).integer("softmaxLseFlag", lse_flag);   \
  call.integer("antiquantMode", antiquant_mode).integer("keyAntiquantMode", key_antiquant_mode);                      \
  call.integer("valueAntiquantMode", value_antiquant_mode);                                                           \
  call.output("attentionOut", output).output("softmaxLse", lse)

ACL_API aclError aclnnFusedInferAttentionScoreV3GetWorkspaceSize(FIA_TENSORS, FIA_NUMBERS, const aclTensor* output,
                                                                 const aclTensor* lse, uint64_t* workspace_size,
                                                                 aclOpExecutor** executor) {
  Call call(fia::kTableV3);
  FIA_COLLECT(call);
  if (aclError error = call.check()) return error;
  return fia::prepare(call, fia::kTableV3.name, workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnFusedInferAttentionScoreV3)

ACL_API aclError aclnnFusedInferAttentionScoreV5GetWorkspaceSize(
    FIA_TENSORS, const aclTensor* dequant_scale_query, const aclTensor* learnable_sink, const aclTensor*,
    const aclTensor*, FIA_NUMBERS, int64_t, int64_t, const aclTensor* output, const aclTensor* lse,
    uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(fia::kTableV5);
  FIA_COLLECT(call);
  call.input("dequantScaleQuery", dequant_scale_query).input("learnableSink", learnable_sink);
  if (aclError error = call.check()) return error;
  return fia::prepare(call, fia::kTableV5.name, workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnFusedInferAttentionScoreV5)
