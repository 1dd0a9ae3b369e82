// Softmax attention over any of the layouts that the aclnn attention operators take. The operators describe their
// tensors with strides; the computing part (attention_native.cpp) knows no layout names.
#pragma once

#include <cstdint>
#include <vector>

#include "hostcann/acl_types.h"

namespace hostcann::opapi {

// Which key positions a query position sees. Row i of a request with `queries` rows and `keys` keys sees the keys
// i + shift - before ... i + shift + after, where shift is 0 or keys - queries (sequences aligned at their ends),
// minus those that the explicit mask excludes.
struct Visibility {
  bool aligned_at_end = false;
  int64_t before = INT64_MAX / 4;
  int64_t after = INT64_MAX / 4;
  const uint8_t* mask = nullptr;  // 1 = excluded; [batch or 1, rows, keys]
  int64_t mask_batch_stride = 0;
  int64_t mask_row_stride = 0;
};

// One sequence of the batch.
struct Sequence {
  int64_t queries;       // query rows
  int64_t keys;          // key and value rows
  int64_t query_offset;  // elements from the start of the query tensor
  int64_t output_offset;
  int64_t lse_offset;
  int64_t key_offset;    // elements from the start of the key tensor; not used when paged
  int64_t value_offset;
  int64_t query_rope_offset = 0;
};

// Strides count elements.
struct Strides {
  int64_t row;
  int64_t head;
  int64_t block = 0;  // from one cache block to the next; paged keys and values only
};

// What int8 keys or values stand for: (integer + offset) * scale, each [key heads * head size].
struct Steps {
  std::vector<float> scale;   // empty: keys and values are no integers
  std::vector<float> offset;  // empty: 0
};

struct Attention {
  const char* name;  // of the operator, for errors
  DataType dtype;    // float32, float16 or bfloat16: of query, output, and key and value unless they have steps
  Steps key_steps, value_steps;  // both or none; half types only
  const void* query;
  const void* key;
  const void* value;
  void* output;
  float* lse = nullptr;          // log-sum-exp per (row, head), or nullptr
  float* max = nullptr;          // row maximum and sum, eight copies each as flash attention for training wants them
  float* sum = nullptr;
  Strides query_strides, key_strides, value_strides, output_strides, lse_strides;
  int64_t heads;
  int64_t key_heads;
  int64_t head_size;             // multiple of 1; sizes that are multiples of 16 are fast
  int64_t value_size;
  // A second part of query and key, of its own size, whose products are added to the scores (paged only).
  const void* query_rope = nullptr;
  const void* key_rope = nullptr;
  int64_t rope_size = 0;
  Strides query_rope_strides{}, key_rope_strides{};
  float scale;
  Visibility visibility;
  std::vector<Sequence> sequences;
  // Paged keys and values: block_table[sequence][i] is the block that holds keys i * block_size ...
  const int32_t* block_table = nullptr;
  int64_t block_table_stride = 0;
  int64_t block_size = 0;
  int64_t block_count = 0;
};

// Scores, softmax and the weighted sum are accumulated in float32; the output is rounded once. Rows that see no key
// give zeros and an infinite lse. Throws std::runtime_error when the block table names a block outside the cache.
void compute_attention(const Attention& problem);

}  // namespace hostcann::opapi
