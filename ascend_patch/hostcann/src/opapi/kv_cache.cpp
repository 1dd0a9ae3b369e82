// aclnnScatterPaKvCache: writes new keys and values into the paged cache.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "opapi/operator.h"

namespace hostcann::opapi {
namespace {

bool nz(const Call& c) { return c.text("cacheMode") == "PA_NZ"; }

// Columns of a PA_NZ tile: 32 bytes.
int64_t tile(const Call& c) { return 32 / static_cast<int64_t>(element_size(c.tensor("key")->dtype)); }

bool cache_fits(const Call& c, const char* source, const char* cache) {
  const int64_t heads = c.size(source, 1), size = c.size(source, 2);
  if (nz(c)) return c.size(cache, 3) == tile(c) && c.size(cache, 1) * tile(c) == heads * size;
  return c.size(cache, 2) == heads && c.size(cache, 3) == size;
}

int64_t block_size(const Call& c, const char* cache) { return c.size(cache, nz(c) ? 2 : 1); }

constexpr DtypeSet kCacheTypes = dtypes(kFloat16, kFloat, kBf16, kInt8, kUint8, kInt16, kUint16, kInt32, kUint32,
                                        kHifloat8, kFloat8E5m2, kFloat8E4m3);
constexpr DtypeSet kIndexTypes = dtypes(kInt32, kInt64);

const OperatorTable kScatterPaKvCache{
    "aclnnScatterPaKvCache", "CANN ops-transformer, aclnnScatterPaKvCache.md", kA2A3A5,
    {{"key", kCacheTypes, 3, 3},
     {"keyCache", kCacheTypes, 4, 4, true},
     {"slotMapping", kIndexTypes, 1, 1, true},
     {"value", kCacheTypes, 3, 3},
     {"valueCache", kCacheTypes, 4, 4, true},
     unsupported("compressLens"),
     unsupported("compressSeqOffset"),
     unsupported("seqLens")},
    {{"cacheMode", "\"Norm\" or \"PA_NZ\"", "torch_npu.npu_scatter_pa_kv_cache, cache_mode",
      [](const Call& c) { return nz(c) || c.text("cacheMode") == "Norm" || !c.has("cacheMode"); }},
     {"cacheMode", "\"Norm\"", "function, scenarios of the 950",
      [](const Call& c) { return !nz(c); }, kAclnnInvalidParam, family(SocFamily::k950)},
     {"scatterMode", "\"None\" (others are not emulated)", "function, scenarios",
      [](const Call& c) { return c.text("scatterMode") == "None"; }},
     {"value", "the type of key", "constraints, attributes",
      [](const Call& c) { return c.same_dtype("key", "value"); }},
     {"keyCache", "the type of key", "constraints, attributes",
      [](const Call& c) { return c.same_dtype("key", "keyCache"); }},
     {"valueCache", "the type of key", "constraints, attributes",
      [](const Call& c) { return c.same_dtype("key", "valueCache"); }},
     {"value", "the number of tokens and heads of key", "constraints, shapes",
      [](const Call& c) { return c.size("key", 0) == c.size("value", 0) && c.size("key", 1) == c.size("value", 1); }},
     {"slotMapping", "one slot per token", "function, scenarios 1 and 2",
      [](const Call& c) { return c.size("slotMapping", 0) == c.size("key", 0); }},
     {"keyCache",
      "Norm: [blocks, block size, heads, head size]; PA_NZ: [blocks, heads * head size / (32 bytes), block size, "
      "32 bytes]",
      "function, scenarios 1 and 2", [](const Call& c) { return cache_fits(c, "key", "keyCache"); }},
     {"valueCache",
      "Norm: [blocks, block size, heads, head size]; PA_NZ: [blocks, heads * head size / (32 bytes), block size, "
      "32 bytes]",
      "function, scenarios 1 and 2", [](const Call& c) { return cache_fits(c, "value", "valueCache"); }},
     {"valueCache", "the blocks of keyCache", "parameters, valueCache", [](const Call& c) {
        return c.size("keyCache", 0) == c.size("valueCache", 0) &&
               block_size(c, "keyCache") == block_size(c, "valueCache");
      }}}};

// One of the two caches and what goes into it. All sizes in bytes unless named otherwise.
struct Target {
  const char* source;
  int64_t source_row, source_head, source_element;
  char* cache;
  int64_t heads, head_elements;
  int64_t row;     // a token's bytes
  int64_t element;
};

Target target_of(const Call& c, const char* source, const char* cache) {
  const aclTensor& from = *c.tensor(source);
  const auto element = static_cast<int64_t>(element_size(from.dtype));
  return {static_cast<const char*>(first_element(from)),
          from.strides[0] * element,
          from.strides[1] * element,
          from.strides[2] * element,
          static_cast<char*>(first_element(*c.tensor(cache))),
          from.shape[1],
          from.shape[2],
          from.shape[1] * from.shape[2] * element,
          element};
}

// The token's heads one after the other, without gaps.
void pack(const Target& t, int64_t token, char* to) {
  const char* from = t.source + token * t.source_row;
  const int64_t head_bytes = t.head_elements * t.element;
  for (int64_t head = 0; head < t.heads; ++head, to += head_bytes) {
    const char* at = from + head * t.source_head;
    if (t.source_element == t.element) {
      std::memcpy(to, at, head_bytes);
    } else {
      for (int64_t i = 0; i < t.head_elements; ++i) {
        std::memcpy(to + i * t.element, at + i * t.source_element, t.element);
      }
    }
  }
}

void write(const Target& t, int64_t token, int64_t slot, int64_t block_rows, bool tiled, std::vector<char>& buffer) {
  if (!tiled) {
    pack(t, token, t.cache + slot * t.row);
    return;
  }
  buffer.resize(t.row);
  pack(t, token, buffer.data());
  const int64_t block = slot / block_rows, row = slot % block_rows;
  for (int64_t column = 0; column < t.row / 32; ++column) {
    char* to = t.cache + ((block * (t.row / 32) + column) * block_rows + row) * 32;
    std::memcpy(to, buffer.data() + column * 32, 32);
  }
}

template <typename Index>
void check_slots(const Index* slots, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    if (slots[i] < 0 || slots[i] >= limit) {
      throw std::runtime_error("aclnnScatterPaKvCache: slotMapping[" + std::to_string(i) + "] is " +
                               std::to_string(slots[i]) + "; allowed: 0 to blocks * block size - 1 = " +
                               std::to_string(limit - 1) + " (source: constraints, values)");
    }
  }
  if (!accesses_are_checked()) return;
  std::vector<Index> sorted(slots, slots + count);
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) {
    throw std::runtime_error("aclnnScatterPaKvCache: slot " + std::to_string(*twice) +
                             " occurs more than once in slotMapping (source: constraints, values)");
  }
}

template <typename Index>
void scatter(const Target& key, const Target& value, const Index* slots, int64_t tokens, int64_t blocks,
             int64_t block_rows, bool tiled) {
  check_slots(slots, tokens, blocks * block_rows);
  at::parallel_for(0, tokens, 256, [&](int64_t begin, int64_t end) {
    std::vector<char> buffer;
    for (int64_t token = begin; token < end; ++token) {
      write(key, token, slots[token], block_rows, tiled, buffer);
      write(value, token, slots[token], block_rows, tiled, buffer);
    }
  });
}

}  // namespace
}  // namespace hostcann::opapi

using namespace hostcann;
using namespace hostcann::opapi;

ACL_API aclError aclnnScatterPaKvCacheGetWorkspaceSize(
    const aclTensor* key, const aclTensor* key_cache, const aclTensor* slot_mapping, const aclTensor* value,
    const aclTensor* value_cache, const aclTensor* compress_lens, const aclTensor* compress_seq_offset,
    const aclTensor* seq_lens, char* cache_mode, char* scatter_mode, const aclIntArray*, const aclIntArray*,
    uint64_t* workspace_size, aclOpExecutor** executor) {
  Call call(kScatterPaKvCache);
  call.input("key", key).output("keyCache", key_cache).input("slotMapping", slot_mapping).input("value", value);
  call.output("valueCache", value_cache).input("compressLens", compress_lens);
  call.input("compressSeqOffset", compress_seq_offset).input("seqLens", seq_lens);
  call.text("cacheMode", cache_mode).text("scatterMode", scatter_mode);
  if (aclError error = call.check()) return error;
  return call.finish(workspace_size, executor,
                     [k = target_of(call, "key", "keyCache"), v = target_of(call, "value", "valueCache"),
                      slots = first_element(*slot_mapping), wide = slot_mapping->dtype == kInt64,
                      tokens = call.size("key", 0), blocks = call.size("keyCache", 0),
                      rows = block_size(call, "keyCache"), tiled = nz(call)] {
                       if (wide) {
                         scatter(k, v, static_cast<const int64_t*>(slots), tokens, blocks, rows, tiled);
                       } else {
                         scatter(k, v, static_cast<const int32_t*>(slots), tokens, blocks, rows, tiled);
                       }
                     });
}
HOSTCANN_OPERATOR_RUN(aclnnScatterPaKvCache)
