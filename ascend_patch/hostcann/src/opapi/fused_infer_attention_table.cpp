// The constraint table of aclnnFusedInferAttentionScore.
//
// Sources: CANN ops-transformer, aclnnFusedInferAttentionScoreV3.md and aclnnFusedInferAttentionScoreV5.md
// (non-quantised GQA, the case without rope). Both functions share their kernels. Where the V3 page is older than the
// V5 page, the V5 page counts: the V3 page of November 2025 still limits TND to head sizes 128 and 192 and to sequences
// without a block table.
//
// What int8 keys and values add is in fused_infer_attention_quantised.cpp.
//
// With rope (latent attention, decode) the strictest of three pages counts: those two, and torch_npu's page of
// npu_fused_infer_attention_score, "MLA". Of the two head sizes that take rope, 512 is emulated.
#include "opapi/fused_infer_attention.h"

#include <algorithm>

namespace hostcann::opapi::fia {

Layout layout(const Call& c) {
  const std::string& text = c.text("inputLayout");
  if (text == "TND") return Layout::kTnd;
  if (text == "BSND") return Layout::kBsnd;
  if (text == "BNSD") return Layout::kBnsd;
  if (text == "BSH") return Layout::kBsh;
  if (text == "BNSD_BSND") return Layout::kBnsdBsnd;
  return Layout::kUnknown;
}

Cache cache(const Call& c) {
  if (!c.has("blockTable")) return Cache::kNone;
  return c.dims("key") == 3 ? Cache::kBnBsH : Cache::kBnNBsD;
}

int64_t heads(const Call& c) { return c.integer("numHeads"); }
int64_t key_heads(const Call& c) { return c.integer("numKeyValueHeads") ? c.integer("numKeyValueHeads") : heads(c); }

int64_t batch(const Call& c) {
  if (layout(c) != Layout::kTnd) return c.size("query", 0);
  return c.has("actualSeqLengths") ? static_cast<int64_t>(c.array("actualSeqLengths")->size()) : 0;
}

int64_t head_size(const Call& c) {
  return layout(c) == Layout::kBsh ? c.size("query", 2) / heads(c) : c.size("query", -1);
}

int64_t value_size(const Call& c) {
  const bool packed = cache(c) == Cache::kBnBsH || (cache(c) == Cache::kNone && layout(c) == Layout::kBsh);
  return packed ? c.size("value", 2) / key_heads(c) : c.size("value", -1);
}

int64_t key_capacity(const Call& c) {
  const bool heads_first = layout(c) == Layout::kBnsd || layout(c) == Layout::kBnsdBsnd;
  return c.size("key", heads_first ? 2 : 1);
}

namespace {

int64_t query_capacity(const Call& c) {
  const bool heads_first = layout(c) == Layout::kBnsd || layout(c) == Layout::kBnsdBsnd;
  return c.size("query", heads_first ? 2 : 1);
}

// Entry `index` of a list of lengths whose single entry stands for all.
int64_t shared(const std::vector<int64_t>& lengths, int64_t index) {
  return lengths.size() == 1 ? lengths[0] : lengths[index];
}

int64_t difference(const std::vector<int64_t>& cumulative, int64_t index) {
  return cumulative[index] - (index ? cumulative[index - 1] : 0);
}

}  // namespace

int64_t queries(const Call& c, int64_t index) {
  if (layout(c) == Layout::kTnd) return difference(*c.array("actualSeqLengths"), index);
  const auto* lengths = c.array("actualSeqLengths");
  // A single query row is always computed (V3, Q_S = 1: actualSeqLengths has no effect outside TND).
  if (lengths == nullptr || lengths->empty() || query_capacity(c) == 1) return query_capacity(c);
  return shared(*lengths, index);
}

int64_t keys(const Call& c, int64_t index) {
  const auto* lengths = c.array("actualSeqLengthsKv");
  if (lengths == nullptr || lengths->empty()) return key_capacity(c);
  if (layout(c) == Layout::kTnd && cache(c) == Cache::kNone) return difference(*lengths, index);
  return shared(*lengths, index);
}

int64_t max_queries(const Call& c) {
  if (layout(c) != Layout::kTnd) return query_capacity(c);
  int64_t longest = 0;
  for (int64_t i = 0; i < batch(c); ++i) longest = std::max(longest, queries(c, i));
  return longest;
}

std::vector<int64_t> output_shape(const Call& c) {
  std::vector<int64_t> shape = c.tensor("query")->shape;
  if (layout(c) == Layout::kBnsdBsnd) std::swap(shape[1], shape[2]);
  shape.back() = layout(c) == Layout::kBsh ? heads(c) * value_size(c) : value_size(c);
  return shape;
}

std::vector<int64_t> lse_shape(const Call& c) {
  if (layout(c) == Layout::kTnd) return {c.size("query", 0), heads(c), 1};
  return {c.size("query", 0), heads(c), query_capacity(c), 1};
}

namespace {

bool ascending(const std::vector<int64_t>& values) {
  return std::is_sorted(values.begin(), values.end()) && (values.empty() || values[0] >= 0);
}

bool none_negative(const std::vector<int64_t>& values) {
  return std::all_of(values.begin(), values.end(), [](int64_t v) { return v >= 0; });
}

bool is_tnd(const Call& c) { return layout(c) == Layout::kTnd; }
bool is_paged(const Call& c) { return cache(c) != Cache::kNone; }
int64_t sparse(const Call& c) { return c.integer("sparseMode"); }
bool is_latent(const Call& c) { return c.has("queryRope") && c.has("keyRope"); }
bool compressed_mask(const Call& c) { return sparse(c) >= 2 && sparse(c) <= 4; }

int64_t longest_keys(const Call& c) {
  int64_t longest = 0;
  for (int64_t i = 0; i < batch(c); ++i) longest = std::max(longest, keys(c, i));
  return longest;
}

bool query_fits_layout(const Call& c) { return c.dims("query") == (is_tnd(c) || layout(c) == Layout::kBsh ? 3 : 4); }

bool query_heads_match(const Call& c) {
  switch (layout(c)) {
    case Layout::kTnd: return c.size("query", 1) == heads(c);
    case Layout::kBsnd: return c.size("query", 2) == heads(c);
    case Layout::kBsh: return c.size("query", 2) % heads(c) == 0;
    default: return c.size("query", 1) == heads(c);
  }
}

bool cache_fits_layout(const Call& c) {
  if (!is_paged(c)) return true;
  if (c.dims("key") == 3) return true;
  return layout(c) == Layout::kBnsd || layout(c) == Layout::kBnsdBsnd || is_tnd(c);
}

bool key_fits(const Call& c) {
  const int64_t size = head_size(c), count = key_heads(c);
  if (cache(c) == Cache::kBnBsH) return c.size("key", 2) == count * size;
  if (cache(c) == Cache::kBnNBsD) return c.size("key", 1) == count && c.size("key", 3) == size;
  if (c.dims("key") != c.dims("query")) return false;
  switch (layout(c)) {
    case Layout::kTnd: return c.size("key", 1) == count && c.size("key", 2) == size;
    case Layout::kBsnd: return c.size("key", 0) == batch(c) && c.size("key", 2) == count && c.size("key", 3) == size;
    case Layout::kBsh: return c.size("key", 0) == batch(c) && c.size("key", 2) == count * size;
    default: return c.size("key", 0) == batch(c) && c.size("key", 1) == count && c.size("key", 3) == size;
  }
}

// Key and value agree in every dimension but the head size.
bool value_fits(const Call& c) {
  const auto& key = c.tensor("key")->shape;
  const auto& value = c.tensor("value")->shape;
  return key.size() == value.size() && std::equal(key.begin(), key.end() - 1, value.begin());
}

// Different head sizes of key and value: at most 128, or for TND 192 and 128; never with a block table.
bool value_size_fits(const Call& c) {
  const int64_t q = head_size(c), v = value_size(c);
  if (c.size("value", -1) % (value_size(c) ? value_size(c) : 1) != 0) return false;
  if (is_quantised(c)) return q == v;
  if (q == 192 && v == 128) return is_tnd(c) && !is_paged(c);
  return q == v || (q <= 128 && v <= 128 && !is_paged(c) && layout(c) != Layout::kBnsdBsnd);
}

// The shape of `tensor` with rope's size instead of its head size.
bool rope_fits(const Call& c, const char* rope, const char* tensor) {
  if (!is_latent(c)) return true;
  std::vector<int64_t> shape = c.tensor(tensor)->shape;
  shape.back() = shape.back() / head_size(c) * kRopeSize;
  return c.tensor(rope)->shape == shape;
}

bool latent_heads(const Call& c) {
  const int64_t n = heads(c);
  return !is_latent(c) || (n <= 128 && (n & (n - 1)) == 0 && (!is_tnd(c) || n >= 32));
}

bool latent_queries(const Call& c) {
  for (int64_t i = 0; is_latent(c) && i < batch(c); ++i) {
    if (queries(c, i) < 1 || queries(c, i) > 16) return false;
  }
  return true;
}

bool latent_mode(const Call& c) {
  if (!is_latent(c)) return true;
  return max_queries(c) == 1 ? sparse(c) == 0 && !c.has("attenMask") : sparse(c) == 3;
}

bool lengths_q_given(const Call& c) { return !is_tnd(c) || (c.has("actualSeqLengths") && batch(c) > 0); }
bool lengths_kv_given(const Call& c) {
  return !(is_tnd(c) || is_paged(c)) || (c.has("actualSeqLengthsKv") && !c.array("actualSeqLengthsKv")->empty());
}

bool lengths_q_fit(const Call& c) {
  const auto* lengths = c.array("actualSeqLengths");
  if (lengths == nullptr || lengths->empty()) return true;
  if (is_tnd(c)) return ascending(*lengths) && lengths->back() == c.size("query", 0);
  const bool count = lengths->size() == 1 || static_cast<int64_t>(lengths->size()) >= batch(c);
  return count && none_negative(*lengths) &&
         (query_capacity(c) == 1 || *std::max_element(lengths->begin(), lengths->end()) <= query_capacity(c));
}

bool lengths_kv_fit(const Call& c) {
  const auto* lengths = c.array("actualSeqLengthsKv");
  if (lengths == nullptr || lengths->empty()) return true;
  const auto count = static_cast<int64_t>(lengths->size());
  if (is_tnd(c) && !is_paged(c)) return count == batch(c) && ascending(*lengths) && lengths->back() == c.size("key", 0);
  if (is_tnd(c)) return count == batch(c) && none_negative(*lengths);
  const bool inside = is_paged(c) || *std::max_element(lengths->begin(), lengths->end()) <= key_capacity(c);
  return (count == 1 || count >= batch(c)) && none_negative(*lengths) && inside;
}

bool block_size_fits(const Call& c) {
  if (!is_paged(c) || is_quantised(c)) return true;
  const int64_t size = c.integer("blockSize"), d = head_size(c);
  if (size <= 0) return false;
  if (d == 64 || d == 128) return size % 16 == 0 && size <= 1024;
  return max_queries(c) > 1 ? size % 128 == 0 && size <= 1024 : size % 16 == 0 && size <= 512;
}

bool block_size_matches(const Call& c) {
  return !is_paged(c) || c.integer("blockSize") == c.size("key", cache(c) == Cache::kBnBsH ? 1 : 2);
}

bool table_wide_enough(const Call& c) {
  return !is_paged(c) || c.size("blockTable", 1) * c.integer("blockSize") >= longest_keys(c);
}

bool mask_fits_mode(const Call& c) {
  if (!c.has("attenMask")) return true;
  const auto& shape = c.tensor("attenMask")->shape;
  const size_t n = shape.size();
  if (compressed_mask(c)) {
    return shape[n - 1] == 2048 && shape[n - 2] == 2048 && (n < 3 || shape[0] == 1) && (n < 4 || shape[1] == 1);
  }
  if (n > 2 && shape[0] != 1 && shape[0] != batch(c)) return false;
  if (n == 4 && shape[1] != 1) return false;
  const int64_t width = is_paged(c) ? c.size("blockTable", 1) * c.integer("blockSize") : key_capacity(c);
  return shape[n - 2] >= max_queries(c) && shape[n - 1] >= width;
}

bool mask_given_where_needed(const Call& c) { return c.has("attenMask") == (sparse(c) != 0) || sparse(c) == 0; }
bool tnd_mode(const Call& c) {
  if (!is_tnd(c)) return true;
  return (sparse(c) == 0 && !c.has("attenMask")) || sparse(c) == 3 || sparse(c) == 4;
}

bool band_is_not_empty(const Call& c) {
  const bool used = sparse(c) == 4 || (sparse(c) == 0 && c.has("attenMask"));
  return !used || c.integer("preTokens") + c.integer("nextTokens") >= 0;
}

constexpr DtypeSet kMaskTypes = dtypes(kBool, kInt8, kUint8);
constexpr const char* kCommon = "V5 common parameters";
constexpr const char* kMask = "V5 attention mask";
constexpr const char* kLengths = "V5 actual sequence lengths";
constexpr const char* kPaged = "V5 paged attention";
constexpr const char* kLatent = "V3 constraints, queryRope and keyRope";

std::vector<TensorRow> tensor_rows(bool fifth) {
  std::vector<TensorRow> rows = {{"query", kHalfFloats, 3, 4, true},
                                 {"key", kHalfFloats | dtypes(kInt8), 3, 4, true},
                                 {"value", kHalfFloats | dtypes(kInt8), 3, 4, true},
                                 {"attenMask", kMaskTypes, 2, 4, true, Presence::kOptional},
                                 {"blockTable", dtypes(kInt32), 2, 2, true, Presence::kOptional},
                                 {"queryRope", kHalfFloats, 3, 4, true, Presence::kOptional},
                                 {"keyRope", kHalfFloats, 3, 4, true, Presence::kOptional},
                                 {"keyAntiquantScale", kHalfFloats, 1, 4, true, Presence::kOptional},
                                 {"keyAntiquantOffset", kHalfFloats, 1, 4, true, Presence::kOptional},
                                 {"valueAntiquantScale", kHalfFloats, 1, 4, true, Presence::kOptional},
                                 {"valueAntiquantOffset", kHalfFloats, 1, 4, true, Presence::kOptional},
                                 {"attentionOut", kHalfFloats, 3, 4},
                                 {"softmaxLse", dtypes(kFloat), 1, 4, false, Presence::kOptional}};
  for (const char* name :
       {"pseShift", "deqScale1", "quantScale1", "deqScale2", "quantScale2", "quantOffset2", "antiquantScale",
        "antiquantOffset", "queryPaddingSize", "kvPaddingSize", "keySharedPrefix", "valueSharedPrefix",
        "keyRopeAntiquantScale"}) {
    rows.push_back(unsupported(name));
  }
  if (fifth) {
    rows.push_back(unsupported("dequantScaleQuery"));
    rows.push_back(unsupported("learnableSink"));
  }
  return rows;
}

std::vector<Rule> rules() {
  std::vector<Rule> all = {
      {"inputLayout", "TND, BSND, BNSD, BSH or BNSD_BSND (others are not emulated)", kCommon,
       [](const Call& c) { return layout(c) != Layout::kUnknown; }},
      {"numHeads", "1 to 256", "V3 constraints, Q_S > 1",
       [](const Call& c) { return heads(c) >= 1 && heads(c) <= 256; }},
      {"numKeyValueHeads", "0, or a divisor of numHeads that is at least numHeads / 64, with rope numHeads / 128",
       "V3 numKeyValueHeads",
       [](const Call& c) {
         const int64_t most = is_latent(c) ? 128 : 64;
         return key_heads(c) > 0 && heads(c) % key_heads(c) == 0 && heads(c) / key_heads(c) <= most;
       }},
      {"query", "3 dimensions for TND and BSH, 4 for the other layouts", kCommon, query_fits_layout},
      {"query", "numHeads heads", kCommon, query_heads_match},
      {"query", "a head size that is a multiple of 16, at most 512", "V3 constraints, D axis",
       [](const Call& c) { return head_size(c) > 0 && head_size(c) % 16 == 0 && head_size(c) <= 512; }},
      {"key", "the type of query, or int8", kCommon,
       [](const Call& c) { return c.same_dtype("query", "key") || is_quantised(c); }},
      {"value", "the type of key", kCommon, [](const Call& c) { return c.same_dtype("key", "value"); }},
      {"key", "a cache of 3 dimensions [blocks, block size, heads * head size] with this layout", "V3 page attention",
       cache_fits_layout},
      {"key", "the layout's shape with numKeyValueHeads heads of query's head size", kCommon, key_fits},
      {"value", "the shape of key", kCommon, value_fits},
      {"value", "the head size of query, or without block table another one: both at most 128, or for TND 128 with query's 192", kCommon, value_size_fits},
      {"sparseMode", "0, 2 or 3 where key and value differ in head size", "V5 attention mask, cross constraints",
       [](const Call& c) { return head_size(c) == value_size(c) || sparse(c) == 0 || sparse(c) == 2 || sparse(c) == 3; }},
      {"queryRope", "not given with int8 keys", "V5 rope, cross constraints",
       [](const Call& c) { return !c.has("queryRope") || !is_quantised(c); }},
      {"queryRope", "given together with keyRope", kLatent,
       [](const Call& c) { return c.has("queryRope") == c.has("keyRope"); }},
      {"query", "a head size of 512 with rope (128 is not emulated)", kLatent,
       [](const Call& c) { return !is_latent(c) || head_size(c) == 512; }},
      {"queryRope", "the type of query", kLatent,
       [](const Call& c) { return !is_latent(c) || c.same_dtype("query", "queryRope"); }},
      {"keyRope", "the type of key", kLatent,
       [](const Call& c) { return !is_latent(c) || c.same_dtype("key", "keyRope"); }},
      {"queryRope", "the shape of query with a head size of 64", kLatent,
       [](const Call& c) { return rope_fits(c, "queryRope", "query"); }},
      {"keyRope", "the shape of key with a head size of 64", kLatent,
       [](const Call& c) { return rope_fits(c, "keyRope", "key"); }},
      {"inputLayout", "BSH, BSND, BNSD or TND with rope", kLatent,
       [](const Call& c) { return !is_latent(c) || layout(c) != Layout::kBnsdBsnd; }},
      {"numHeads", "1, 2, 4, 8, 16, 32, 64 or 128 with rope; of these at least 32 for TND", kLatent, latent_heads},
      {"numKeyValueHeads", "1 with rope", kLatent, [](const Call& c) { return !is_latent(c) || key_heads(c) == 1; }},
      {"blockTable", "required with rope", kLatent, [](const Call& c) { return !is_latent(c) || is_paged(c); }},
      {"blockSize", "16 or 128 with rope", kLatent,
       [](const Call& c) {
         return !is_latent(c) || c.integer("blockSize") == 16 || c.integer("blockSize") == 128;
       }},
      {"softmaxLseFlag", "0 with rope", "torch_npu.npu_fused_infer_attention_score, MLA",
       [](const Call& c) { return !is_latent(c) || !c.integer("softmaxLseFlag"); }},
      {"actualSeqLengths", "required for TND", kLengths, lengths_q_given},
      {"actualSeqLengthsKv", "required for TND and with a block table", kLengths, lengths_kv_given},
      {"actualSeqLengths", "at most 4096 entries for TND", "V3 constraints, TND",
       [](const Call& c) { return !is_tnd(c) || batch(c) <= 4096; }},
      {"actualSeqLengths",
       "TND: running totals that end with the number of query rows; else 1 or batch lengths within query", kLengths,
       lengths_q_fit},
      {"actualSeqLengthsKv",
       "TND without block table: running totals that end with the number of key rows; with one: a length per request; "
       "else 1 or batch lengths within key",
       kLengths, lengths_kv_fit},
      {"blockTable", "one row per request", kPaged,
       [](const Call& c) { return !is_paged(c) || c.size("blockTable", 0) == batch(c); }},
      {"blockTable", "dimensions other than 0", kPaged,
       [](const Call& c) { return !is_paged(c) || element_count(*c.tensor("blockTable")) > 0; }},
      {"blockSize",
       "head size 64 or 128: a multiple of 16, at most 1024; else with more than one query row a multiple of 128, at "
       "most 1024, and with one a multiple of 16, at most 512",
       kPaged, block_size_fits},
      {"blockSize", "the block size of the cache", kPaged, block_size_matches},
      {"blockTable", "enough columns for the longest actualSeqLengthsKv", kPaged, table_wide_enough},
      {"key", "at most 65535 elements per token in a cache of 3 dimensions", kPaged,
       [](const Call& c) { return cache(c) != Cache::kBnBsH || c.size("key", 2) <= 65535; }},
      {"sparseMode", "0 to 4", kMask, [](const Call& c) { return sparse(c) >= 0 && sparse(c) <= 4; }},
      {"attenMask", "required unless sparseMode is 0", kMask, mask_given_where_needed},
      {"sparseMode", "for TND 0 without attenMask, or 3 or 4 with it", "V3 constraints, TND", tnd_mode},
      {"actualSeqLengths", "with rope 1 to 16 query rows per request", kLatent, latent_queries},
      {"actualSeqLengths", "with rope and several query rows given for TND only", kLatent,
       [](const Call& c) {
         return !is_latent(c) || is_tnd(c) || max_queries(c) == 1 || !c.has("actualSeqLengths");
       }},
      {"sparseMode", "with rope 0 without attenMask for one query row, 3 with it for several", kLatent, latent_mode},
      {"attenMask", "2048 x 2048 for sparseMode 2, 3 and 4; else [batch or 1, query rows, key rows] or larger", kMask,
       mask_fits_mode},
      {"preTokens", "preTokens + nextTokens >= 0", kMask, band_is_not_empty},
      {"innerPrecise", "0 to 3", "V5 parameters, innerPrecise",
       [](const Call& c) { return c.integer("innerPrecise") >= 0 && c.integer("innerPrecise") <= 3; }},
      {"attentionOut", "the type of query", kCommon,
       [](const Call& c) { return c.same_dtype("query", "attentionOut"); }},
      {"attentionOut", "the shape of query with the head size of value", "V5 parameters, attentionOut",
       [](const Call& c) { return c.tensor("attentionOut")->shape == output_shape(c); }},
      {"softmaxLse", "[T, heads, 1] for TND, else [batch, heads, query rows, 1], when softmaxLseFlag is set",
       "V5 parameters, softmaxLse", [](const Call& c) {
         return !c.integer("softmaxLseFlag") || (c.has("softmaxLse") && c.tensor("softmaxLse")->shape == lse_shape(c));
       }}};
  for (const Rule& rule : quantised_rules()) all.push_back(rule);
  return all;
}

}  // namespace

const OperatorTable kTableV3{"aclnnFusedInferAttentionScoreV3",
                             "CANN ops-transformer, aclnnFusedInferAttentionScoreV3.md and V5.md", kA2A3,
                             tensor_rows(false), rules()};
const OperatorTable kTableV5{"aclnnFusedInferAttentionScoreV5",
                             "CANN ops-transformer, aclnnFusedInferAttentionScoreV5.md", kA2A3A5, tensor_rows(true),
                             rules()};

}  // namespace hostcann::opapi::fia
