// aclnnRopeWithSinCosCache and V2: rotary embedding with cos and sin looked up by position.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "opapi/operator.h"
#include "opapi/tensors.h"

namespace hostcann::opapi {
namespace {

using Sections = std::vector<int64_t>;

// nullptr, an empty list and zeros all stand for plain rotary embedding.
bool multimodal(const Call& c) {
  const Sections* sections = c.array("mropeSection");
  return sections && std::any_of(sections->begin(), sections->end(), [](int64_t v) { return v != 0; });
}

bool known_sections(const Call& c) {
  static const std::vector<Sections> known = {{11, 11, 10}, {16, 24, 24}, {24, 20, 20}, {8, 12, 12}, {16, 16, 16, 16}};
  return !multimodal(c) || std::find(known.begin(), known.end(), *c.array("mropeSection")) != known.end();
}

int64_t alignment(const Call& c) { return c.tensor("query")->dtype == kFloat ? 16 : 32; }
int64_t rotary_dim(const Call& c) { return c.size("cosSinCache", 1); }

bool positions_fit(const Call& c) {
  if (!multimodal(c)) return c.dims("positions") == 1 && c.size("positions", 0) == c.size("query", 0);
  return c.dims("positions") == 2 && c.size("positions", 1) == c.size("query", 0) &&
         c.size("positions", 0) == static_cast<int64_t>(c.array("mropeSection")->size());
}

bool not_empty(const Call& c, const char* name) { return element_count(*c.tensor(name)) > 0; }

std::vector<Rule> rules(bool second) {
  const char* kConstraints = "constraints";
  std::vector<Rule> rules = {
      {"query", "a tensor that is not empty", "parameters, queryIn",
       [](const Call& c) { return not_empty(c, "query"); }, kTilingError},
      {"key", "a tensor that is not empty", "parameters, keyIn", [](const Call& c) { return not_empty(c, "key"); },
       kTilingError},
      {"key", "the type of query", kConstraints, [](const Call& c) { return c.same_dtype("query", "key"); }},
      {"cosSinCache", "the type of query", kConstraints,
       [](const Call& c) { return c.same_dtype("query", "cosSinCache"); }},
      {"headSize", "a positive multiple of 32 (float32: 16)", kConstraints,
       [](const Call& c) { return c.integer("headSize") > 0 && c.integer("headSize") % alignment(c) == 0; },
       kAclnnRuntimeError},
      {"cosSinCache", "a rotary size that is a multiple of 32 (float32: 16)", kConstraints,
       [](const Call& c) { return rotary_dim(c) > 0 && rotary_dim(c) % alignment(c) == 0; }, kAclnnRuntimeError},
      {"cosSinCache", "a rotary size of at most headSize", kConstraints,
       [](const Call& c) { return rotary_dim(c) <= c.integer("headSize"); }, kAclnnRuntimeError},
      {"query", "a whole number of heads of headSize", kConstraints,
       [](const Call& c) { return c.size("query", 1) % c.integer("headSize") == 0; }, kTilingError},
      {"key", "query's tokens and a whole number of heads of headSize", kConstraints,
       [](const Call& c) {
         return c.size("key", 0) == c.size("query", 0) && c.size("key", 1) % c.integer("headSize") == 0;
       },
       kTilingError},
      {"mropeSection", "none, or [11, 11, 10], [16, 24, 24], [24, 20, 20], [8, 12, 12] or [16, 16, 16, 16]",
       kConstraints, known_sections},
      {"mropeSection", "a sum of half the rotary size", kConstraints,
       [](const Call& c) {
         if (!multimodal(c)) return true;
         const Sections& s = *c.array("mropeSection");
         return std::accumulate(s.begin(), s.end(), int64_t{0}) * 2 == rotary_dim(c);
       },
       kTilingError},
      {"positions", "[tokens], with sections [number of sections, tokens]", "parameters, positions", positions_fit,
       kTilingError},
      {"queryOut", "the type of query", "parameters, queryOut",
       [](const Call& c) { return c.same_dtype("query", "queryOut"); }},
      {"queryOut", "the shape of query", "parameters, queryOut",
       [](const Call& c) { return c.same_shape("query", "queryOut"); }, kTilingError},
      {"keyOut", "the type of key", "parameters, keyOut",
       [](const Call& c) { return c.same_dtype("key", "keyOut"); }},
      {"keyOut", "the shape of key", "parameters, keyOut",
       [](const Call& c) { return c.same_shape("key", "keyOut"); }, kTilingError}};
  if (second) {
    rules.push_back({"cacheMode", "0, or 1 with three sections", kConstraints, [](const Call& c) {
                       const int64_t mode = c.integer("cacheMode");
                       return mode == 0 || (mode == 1 && multimodal(c) && c.array("mropeSection")->size() == 3);
                     }});
  }
  return rules;
}

std::vector<TensorRow> tensor_rows() {
  return {{"positions", dtypes(kInt64), 1, 2}, {"query", kFloats, 2, 2},          {"key", kFloats, 2, 2},
          {"cosSinCache", kFloats, 2, 2},      {"queryOut", kFloats, 2, 2, true}, {"keyOut", kFloats, 2, 2, true}};
}

const OperatorTable kFirst{"aclnnRopeWithSinCosCache", "CANN ops-transformer, aclnnRopeWithSinCosCache.md", kA2A3,
                           tensor_rows(), rules(false)};
const OperatorTable kSecond{"aclnnRopeWithSinCosCacheV2", "CANN ops-transformer, aclnnRopeWithSinCosCacheV2.md", kA2A3,
                            tensor_rows(), rules(true)};

struct Rotation {
  at::Tensor positions, query, key, cache, query_out, key_out;
  DataType type;
  int64_t head_size;
  bool neox;
  Sections sections;  // empty: plain rotary embedding
  bool interleaved;   // how the sections take turns: as runs, or position by position
};

// Which row of positions angle `i` of half the rotary size takes its cos and sin from.
std::vector<int64_t> sources(const Rotation& r, int64_t half) {
  std::vector<int64_t> source(half, 0);
  if (r.sections.empty()) return source;
  if (r.interleaved) {
    for (int64_t i = 1; i < std::min(r.sections[1] * 3, half); i += 3) source[i] = 1;
    for (int64_t i = 2; i < std::min(r.sections[1] * 3, half); i += 3) source[i] = 2;
    return source;
  }
  int64_t at = 0;
  for (size_t section = 0; section < r.sections.size(); ++section) {
    for (int64_t i = 0; i < r.sections[section] && at < half; ++i) source[at++] = static_cast<int64_t>(section);
  }
  return source;
}

// Rotates all heads of one token; float32 inside, one rounding at the end.
template <typename T>
void rotate(const T* from, T* to, int64_t width, int64_t head_size, int64_t half, bool neox, const float* cos,
            const float* sin) {
  for (int64_t head = 0; head < width; head += head_size) {
    const T* x = from + head;
    T* y = to + head;
    const int64_t step = neox ? 1 : 2, other = neox ? half : 1;
    for (int64_t i = 0; i < half; ++i) {
      const float a = static_cast<float>(x[i * step]), b = static_cast<float>(x[i * step + other]);
      y[i * step] = static_cast<T>(a * cos[i] - b * sin[i]);
      y[i * step + other] = static_cast<T>(b * cos[i] + a * sin[i]);
    }
    std::copy(x + 2 * half, x + head_size, y + 2 * half);
  }
}

template <typename T>
void compute(const Rotation& r) {
  auto rows = [](const at::Tensor& t) { return t.stride(1) == 1 ? t : t.contiguous(); };
  const at::Tensor query = rows(r.query), key = rows(r.key), cache = rows(r.cache);
  const at::Tensor positions = r.positions.contiguous();
  const int64_t half = cache.size(1) / 2, tokens = query.size(0), limit = cache.size(0);
  const auto* at_positions = positions.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < positions.numel(); ++i) {
    if (at_positions[i] < 0 || at_positions[i] >= limit) {
      throw std::runtime_error("aclnnRopeWithSinCosCache: positions[" + std::to_string(i) + "] is " +
                               std::to_string(at_positions[i]) + "; allowed: 0 to " + std::to_string(limit - 1) +
                               ", the rows of cosSinCache (source: constraints)");
    }
  }
  const std::vector<int64_t> source = sources(r, half);
  auto data = [](const at::Tensor& t) { return static_cast<T*>(t.data_ptr()); };
  const int64_t grain = std::max<int64_t>(1, 8192 / (query.size(1) + key.size(1)));
  at::parallel_for(0, tokens, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> cos(half), sin(half);
    for (int64_t token = begin; token < end; ++token) {
      for (int64_t i = 0; i < half; ++i) {
        const T* row = data(cache) + at_positions[source[i] * tokens + token] * cache.stride(0);
        cos[i] = static_cast<float>(row[i]);
        sin[i] = static_cast<float>(row[half + i]);
      }
      rotate(data(query) + token * query.stride(0), data(r.query_out) + token * query.size(1), query.size(1),
             r.head_size, half, r.neox, cos.data(), sin.data());
      rotate(data(key) + token * key.stride(0), data(r.key_out) + token * key.size(1), key.size(1), r.head_size, half,
             r.neox, cos.data(), sin.data());
    }
  });
}

aclError prepare(const OperatorTable& table, const aclTensor* positions, const aclTensor* query, const aclTensor* key,
                 const aclTensor* cache, const aclIntArray* sections, int64_t head_size, bool neox, int64_t cache_mode,
                 const aclTensor* query_out, const aclTensor* key_out, uint64_t* workspace_size,
                 aclOpExecutor** executor) {
  Call call(table);
  call.input("positions", positions).input("query", query).input("key", key).input("cosSinCache", cache);
  call.array("mropeSection", sections).integer("headSize", head_size).integer("cacheMode", cache_mode);
  call.output("queryOut", query_out).output("keyOut", key_out);
  if (aclError error = call.check()) return error;
  Rotation r{view(positions), view(query),     view(key), view(cache), view(query_out),
             view(key_out),   query->dtype,    head_size, neox,        multimodal(call) ? sections->values : Sections{},
             cache_mode == 1};
  return call.finish(workspace_size, executor, [r] {
    for_float_type(r.type, [&](auto element) { compute<decltype(element)>(r); });
  });
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnRopeWithSinCosCacheGetWorkspaceSize(const aclTensor* positions, const aclTensor* query,
                                                          const aclTensor* key, const aclTensor* cache,
                                                          const aclIntArray* sections, int64_t head_size, bool neox,
                                                          const aclTensor* query_out, const aclTensor* key_out,
                                                          uint64_t* workspace_size, aclOpExecutor** executor) {
  return prepare(kFirst, positions, query, key, cache, sections, head_size, neox, 0, query_out, key_out,
                 workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnRopeWithSinCosCache)

ACL_API aclError aclnnRopeWithSinCosCacheV2GetWorkspaceSize(const aclTensor* positions, const aclTensor* query,
                                                            const aclTensor* key, const aclTensor* cache,
                                                            const aclIntArray* sections, int64_t head_size, bool neox,
                                                            int64_t cache_mode, const aclTensor* query_out,
                                                            const aclTensor* key_out, uint64_t* workspace_size,
                                                            aclOpExecutor** executor) {
  return prepare(kSecond, positions, query, key, cache, sections, head_size, neox, cache_mode, query_out, key_out,
                 workspace_size, executor);
}
HOSTCANN_OPERATOR_RUN(aclnnRopeWithSinCosCacheV2)
