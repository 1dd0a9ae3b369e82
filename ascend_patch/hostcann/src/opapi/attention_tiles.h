// The two inner loops of attention: a few rows against a run of keys (decode), and reading keys into float memory
// for a matrix product (prefill).
#pragma once

#include <algorithm>
#include <vector>

#include "opapi/attention.h"
#include "opapi/simd.h"

namespace hostcann::opapi {

constexpr int64_t kPrefetchRows = 8;  // how far ahead rows are fetched into the cache; past the end does no harm

// Gives the address of key row `j`, and how many rows follow it at the same stride.
template <typename T>
class KeyRows {
 public:
  KeyRows(const Attention& p, const Sequence& sequence, size_t index, const void* base, const Strides& strides,
          int64_t offset, int64_t head)
      : base_(static_cast<const T*>(base) + head * strides.head),
        table_(p.block_table ? p.block_table + index * p.block_table_stride : nullptr),
        strides_(strides),
        block_size_(p.block_size),
        keys_(sequence.keys) {
    if (table_ == nullptr) base_ += offset;
  }

  const T* row(int64_t j, int64_t& run) const {
    if (table_ == nullptr) {
      run = keys_ - j;
      return base_ + j * strides_.row;
    }
    const int64_t within = j % block_size_;
    run = std::min(block_size_ - within, keys_ - j);
    return base_ + table_[j / block_size_] * strides_.block + within * strides_.row;
  }

  int64_t stride() const { return strides_.row; }

 private:
  const T* base_;
  const int32_t* table_;
  Strides strides_;
  int64_t block_size_;
  int64_t keys_;
};

// Copies rows [first, first + count) of `size` elements as float32 to `to`, `pitch` floats apart.
template <typename T>
void gather(const KeyRows<T>& rows, int64_t first, int64_t count, int64_t size, float* to, int64_t pitch) {
  using namespace simd;
  for (int64_t done = 0; done < count;) {
    int64_t run;
    const T* from = rows.row(first + done, run);
    run = std::min(run, count - done);
    for (int64_t j = 0; j < run; ++j, from += rows.stride(), to += pitch) {
      sweep(size,
            [&](int64_t i) {
              Floats a;
              load(from + i, a);
              store(a, to + i);
            },
            [&](int64_t i, int64_t n) {
              for (int64_t k = 0; k < n; ++k) to[i + k] = static_cast<float>(from[i + k]);
            });
    }
    done += run;
  }
}

// Scores of Heads query rows (float, `query_pitch` apart) against `count` keys: scores[h * pitch + j], added to what is
// there or written over it.
template <int Heads, typename T>
void dot_rows(const float* query, int64_t query_pitch, int64_t size, const T* key, int64_t stride, int64_t count,
              float scale, float* scores, int64_t pitch, bool add) {
  using namespace simd;
  const int64_t whole = size / kWidth * kWidth;
  for (int64_t j = 0; j < count; ++j, key += stride) {
    Floats total[Heads] = {};
    for (int64_t i = 0; i < whole; i += kWidth) {
      Floats k;
      __builtin_prefetch(key + kPrefetchRows * stride + i);
      load(key + i, k);
      for (int h = 0; h < Heads; ++h) {
        Floats q;
        load(query + h * query_pitch + i, q);
        total[h] += q * k;
      }
    }
    for (int h = 0; h < Heads; ++h) {
      float rest = 0.0f;
      for (int64_t i = whole; i < size; ++i) rest += query[h * query_pitch + i] * static_cast<float>(key[i]);
      const float score = (sum(total[h]) + rest) * scale;
      scores[h * pitch + j] = add ? scores[h * pitch + j] + score : score;
    }
  }
}

// Columns [i, i + 16 * Vectors) of add_rows. The totals stay in registers while the rows pass by, and every cache line
// of a row is read once: rows of a cache with several heads lie a power of two apart and evict each other.
template <int Heads, int Vectors, typename T>
void add_columns(const float* weights, int64_t pitch, const T* value, int64_t stride, int64_t count, int64_t size,
                 float* totals) {
  using namespace simd;
  Floats total[Heads][Vectors];
  for (int h = 0; h < Heads; ++h) {
    for (int v = 0; v < Vectors; ++v) load(totals + h * size + v * kWidth, total[h][v]);
  }
  for (int64_t j = 0; j < count; ++j, value += stride) {
    Floats row[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      __builtin_prefetch(value + kPrefetchRows * stride + v * kWidth);
      load(value + v * kWidth, row[v]);
    }
    for (int h = 0; h < Heads; ++h) {
      const Floats weight = broadcast(weights[h * pitch + j]);
      for (int v = 0; v < Vectors; ++v) total[h][v] += weight * row[v];
    }
  }
  for (int h = 0; h < Heads; ++h) {
    for (int v = 0; v < Vectors; ++v) store(total[h][v], totals + h * size + v * kWidth);
  }
}

// totals[h][:] += sum over j of weights[h * pitch + j] * value row j.
template <int Heads, typename T>
void add_rows(const float* weights, int64_t pitch, const T* value, int64_t stride, int64_t count, int64_t size,
              float* totals) {
  using namespace simd;
  int64_t i = 0;
  for (; i + 4 * kWidth <= size; i += 4 * kWidth) {
    add_columns<Heads, 4>(weights, pitch, value + i, stride, count, size, totals + i);
  }
  for (; i + kWidth <= size; i += kWidth) {
    add_columns<Heads, 1>(weights, pitch, value + i, stride, count, size, totals + i);
  }
  for (; i < size; ++i) {
    for (int h = 0; h < Heads; ++h) {
      float total = totals[h * size + i];
      for (int64_t j = 0; j < count; ++j) total += weights[h * pitch + j] * static_cast<float>(value[j * stride + i]);
      totals[h * size + i] = total;
    }
  }
}

// The running softmax of one row: replaces scores[0..count) by their weights relative to the new maximum and returns
// the factor by which earlier totals must shrink.
inline float soften(float* scores, int64_t count, float& maximum, float& sum_of_weights) {
  using namespace simd;
  Floats peak = broadcast(maximum);
  sweep(count,
        [&](int64_t i) {
          Floats s;
          load(scores + i, s);
          peak = s > peak ? s : peak;
        },
        [&](int64_t i, int64_t n) {
          Floats s;
          load_part(scores + i, n, s, -INFINITY);
          peak = s > peak ? s : peak;
        });
  float top = maximum;
  for (int i = 0; i < kWidth; ++i) top = std::max(top, peak[i]);
  if (top == -INFINITY) {  // nothing visible so far
    std::fill(scores, scores + count, 0.0f);
    return 1.0f;
  }
  Floats added{};
  sweep(count,
        [&](int64_t i) {
          Floats s;
          load(scores + i, s);
          const Floats w = exponential(s - top);
          added += w;
          store(w, scores + i);
        },
        [&](int64_t i, int64_t n) {
          Floats s;
          load_part(scores + i, n, s, -INFINITY);
          const Floats w = exponential(s - top);
          added += w;
          store_part(w, n, scores + i);
        });
  const float shrink = maximum == -INFINITY ? 0.0f : std::exp(maximum - top);
  sum_of_weights = sum_of_weights * shrink + simd::sum(added);
  maximum = top;
  return shrink;
}

}  // namespace hostcann::opapi
