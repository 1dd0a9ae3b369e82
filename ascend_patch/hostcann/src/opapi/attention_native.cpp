#include "opapi/attention.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <stdexcept>
#include <string>

#include "opapi/attention_tiles.h"

namespace hostcann::opapi {
namespace {

constexpr int64_t kTileRows = 128;     // (query row, head) pairs per matrix product
constexpr int64_t kTileKeys = 512;     // keys per matrix product
constexpr int64_t kRunKeys = 128;      // keys per step of the decode loop
constexpr int64_t kSerialWork = 1 << 16;  // multiply-adds below which threads cost more than they give

// The keys that row `row` sees, before the explicit mask: [first, last).
struct Range {
  int64_t first, last;
};

Range visible(const Visibility& v, const Sequence& s, int64_t row) {
  const int64_t centre = row + (v.aligned_at_end ? s.keys - s.queries : 0);
  const int64_t first = std::max<int64_t>(0, centre - v.before);
  const int64_t last = std::min(s.keys, centre + v.after + 1);
  return {first, std::max(first, last)};
}

// A unit of work that runs on one thread: query rows [begin, end) of a sequence, all heads that share a key head.
struct Item {
  size_t sequence;
  int64_t key_head;
  int64_t begin, end;
};

// State of the running softmax for a set of (query row, head) pairs.
struct Running {
  explicit Running(int64_t rows, int64_t size)
      : totals(rows * size, 0.0f), maximum(rows, -INFINITY), sum(rows, 0.0f) {}
  std::vector<float> totals, maximum, sum;
};

// T: of query and output; K: of key and value.
template <typename T, typename K>
class Worker {
 public:
  Worker(const Attention& problem, const Item& item)
      : p_(problem),
        s_(problem.sequences[item.sequence]),
        item_(item),
        group_(problem.heads / problem.key_heads),
        width_(problem.head_size + problem.rope_size),
        keys_(p_, s_, item.sequence, p_.key, p_.key_strides, s_.key_offset, item.key_head),
        values_(p_, s_, item.sequence, p_.value, p_.value_strides, s_.value_offset, item.key_head),
        ropes_(p_, s_, item.sequence, p_.key_rope, p_.key_rope_strides, 0, item.key_head) {}

  void run() {
    const int64_t rows = (item_.end - item_.begin) * group_;
    std::vector<float> query(rows * width_);
    for (int64_t row = item_.begin, at = 0; row < item_.end; ++row) {
      for (int64_t h = 0; h < group_; ++h, at += width_) {
        const int64_t head = item_.key_head * group_ + h;
        const T* from = static_cast<const T*>(p_.query) + s_.query_offset + row * p_.query_strides.row +
                        head * p_.query_strides.head;
        for (int64_t i = 0; i < p_.head_size; ++i) query[at + i] = static_cast<float>(from[i]);
        if (!p_.key_steps.scale.empty()) scale_query(query.data() + at);
        if (p_.rope_size == 0) continue;
        from = static_cast<const T*>(p_.query_rope) + s_.query_rope_offset + row * p_.query_rope_strides.row +
               head * p_.query_rope_strides.head;
        for (int64_t i = 0; i < p_.rope_size; ++i) query[at + p_.head_size + i] = static_cast<float>(from[i]);
      }
    }
    Running state(rows, p_.value_size);
    add_key_offsets(query, rows);
    Range range = visible(p_.visibility, s_, item_.begin);
    range.last = std::max(range.last, visible(p_.visibility, s_, item_.end - 1).last);
    if (item_.end - item_.begin == 1) {
      run_one_row(query, range, state);
    } else {
      run_matrix(query, range, state);
    }
    write(state);
  }

 private:
  // The steps of this item's key head, from its first channel.
  const float* of_head(const std::vector<float>& steps, int64_t size) const {
    return steps.data() + item_.key_head * size;
  }

  // q . ((k + offset) * scale) is (q * scale) . k, and the same number (q * scale) . offset for every key.
  void scale_query(float* query) const {
    const float* scale = of_head(p_.key_steps.scale, p_.head_size);
    for (int64_t i = 0; i < p_.head_size; ++i) query[i] *= scale[i];
  }

  // That number moves a row's scores together: the weights stay, and the log-sum-exp moves along.
  void add_key_offsets(const std::vector<float>& query, int64_t rows) {
    if (p_.key_steps.offset.empty()) return;
    const float* offset = of_head(p_.key_steps.offset, p_.head_size);
    shifts_.assign(rows, 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < p_.head_size; ++i) shifts_[r] += query[r * width_ + i] * offset[i] * p_.scale;
    }
  }

  // The weighted mean of values, from that of their integers.
  float value_of(float mean, int64_t channel) const {
    if (p_.value_steps.scale.empty()) return mean;
    if (!p_.value_steps.offset.empty()) mean += of_head(p_.value_steps.offset, p_.value_size)[channel];
    return mean * of_head(p_.value_steps.scale, p_.value_size)[channel];
  }

  void run_one_row(const std::vector<float>& query, Range range, Running& state) {
    std::vector<float> scores(group_ * kRunKeys);
    for (int64_t j = range.first; j < range.last;) {
      int64_t run, value_run;
      const K* key = keys_.row(j, run);
      const K* value = values_.row(j, value_run);
      run = std::min({run, kRunKeys, range.last - j});
      for (int64_t h = 0; h < group_;) {
        const int64_t left = group_ - h;
        if (left >= 4) h += heads<4>(query, h, key, value, j, run, scores, state);
        else if (left == 3) h += heads<3>(query, h, key, value, j, run, scores, state);
        else if (left == 2) h += heads<2>(query, h, key, value, j, run, scores, state);
        else h += heads<1>(query, h, key, value, j, run, scores, state);
      }
      j += run;
    }
  }

  template <int Heads>
  int heads(const std::vector<float>& query, int64_t h, const K* key, const K* value, int64_t j, int64_t run,
            std::vector<float>& scores, Running& state) {
    float* mine = scores.data() + h * kRunKeys;
    const float* first = query.data() + h * width_;
    dot_rows<Heads>(first, width_, p_.head_size, key, p_.key_strides.row, run, p_.scale, mine, kRunKeys, false);
    if (p_.rope_size != 0) {
      int64_t rope_run;  // the rows of both parts lie in the same blocks
      dot_rows<Heads>(first + p_.head_size, width_, p_.rope_size, ropes_.row(j, rope_run), p_.key_rope_strides.row, run,
                      p_.scale, mine, kRunKeys, true);
    }
    for (int i = 0; i < Heads; ++i) {
      exclude(mine + i * kRunKeys, item_.begin, j, run);
      const float shrink = soften(mine + i * kRunKeys, run, state.maximum[h + i], state.sum[h + i]);
      if (shrink != 1.0f) {
        float* totals = state.totals.data() + (h + i) * p_.value_size;
        for (int64_t k = 0; k < p_.value_size; ++k) totals[k] *= shrink;
      }
    }
    add_rows<Heads>(mine, kRunKeys, value, p_.value_strides.row, run, p_.value_size,
                    state.totals.data() + h * p_.value_size);
    return Heads;
  }

  // Applies the explicit mask to the scores of keys [j, j + count).
  void exclude(float* scores, int64_t row, int64_t j, int64_t count) const {
    const Visibility& v = p_.visibility;
    if (v.mask == nullptr) return;
    const auto sequence = static_cast<int64_t>(item_.sequence);
    const uint8_t* mask = v.mask + sequence * v.mask_batch_stride + row * v.mask_row_stride + j;
    for (int64_t i = 0; i < count; ++i) {
      if (mask[i]) scores[i] = -INFINITY;
    }
  }

  void run_matrix(std::vector<float>& query, Range range, Running& state) {
    const int64_t rows = (item_.end - item_.begin) * group_;
    const int64_t widest = std::min(kTileKeys, range.last - range.first);
    std::vector<float> keys(widest * width_), values(widest * p_.value_size);
    std::vector<float> scores(rows * widest), product(rows * p_.value_size);
    auto matrix = [](std::vector<float>& data, int64_t m, int64_t n) { return at::from_blob(data.data(), {m, n}, at::kFloat); };
    at::Tensor q = matrix(query, rows, width_), o = matrix(product, rows, p_.value_size);
    for (int64_t j = range.first; j < range.last; j += kTileKeys) {
      const int64_t count = std::min(kTileKeys, range.last - j);
      gather(keys_, j, count, p_.head_size, keys.data(), width_);
      if (p_.rope_size != 0) gather(ropes_, j, count, p_.rope_size, keys.data() + p_.head_size, width_);
      gather(values_, j, count, p_.value_size, values.data(), p_.value_size);
      at::Tensor s = matrix(scores, rows, count);
      at::mm_out(s, q, matrix(keys, count, width_).t());
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = item_.begin + r / group_;
        const Range seen = visible(p_.visibility, s_, row);
        float* mine = scores.data() + r * count;
        const int64_t first = std::clamp<int64_t>(seen.first - j, 0, count);
        const int64_t last = std::clamp<int64_t>(seen.last - j, first, count);
        std::fill(mine, mine + first, 0.0f);
        std::fill(mine + last, mine + count, 0.0f);
        for (int64_t i = first; i < last; ++i) mine[i] *= p_.scale;
        exclude(mine + first, row, j + first, last - first);
        const float shrink = soften(mine + first, last - first, state.maximum[r], state.sum[r]);
        if (shrink != 1.0f) {
          float* totals = state.totals.data() + r * p_.value_size;
          for (int64_t k = 0; k < p_.value_size; ++k) totals[k] *= shrink;
        }
      }
      at::mm_out(o, s, matrix(values, count, p_.value_size));
      for (int64_t i = 0; i < rows * p_.value_size; ++i) state.totals[i] += product[i];
    }
  }

  void write(const Running& state) const {
    for (int64_t row = item_.begin, r = 0; row < item_.end; ++row) {
      for (int64_t h = 0; h < group_; ++h, ++r) {
        const int64_t head = item_.key_head * group_ + h;
        T* to = static_cast<T*>(p_.output) + s_.output_offset + row * p_.output_strides.row +
                head * p_.output_strides.head;
        const float weight = state.sum[r];
        const float inverse = weight > 0.0f ? 1.0f / weight : 0.0f;
        for (int64_t i = 0; i < p_.value_size; ++i) {
          const float mean = state.totals[r * p_.value_size + i] * inverse;
          to[i] = static_cast<T>(weight > 0.0f ? value_of(mean, i) : 0.0f);
        }
        const int64_t at = s_.lse_offset + row * p_.lse_strides.row + head * p_.lse_strides.head;
        const float shift = shifts_.empty() ? 0.0f : shifts_[r];
        if (p_.lse) p_.lse[at] = weight > 0.0f ? std::log(weight) + state.maximum[r] + shift : INFINITY;
        for (int copy = 0; copy < 8 && p_.max; ++copy) {
          p_.max[at * 8 + copy] = state.maximum[r];
          p_.sum[at * 8 + copy] = weight;
        }
      }
    }
  }

  const Attention& p_;
  const Sequence& s_;
  const Item& item_;
  const int64_t group_;
  const int64_t width_;  // of a query or key row: both parts
  const KeyRows<K> keys_, values_, ropes_;
  std::vector<float> shifts_;  // what the keys' offsets add to each row's scores
};

void check_blocks(const Attention& p) {
  for (size_t index = 0; index < p.sequences.size(); ++index) {
    const Sequence& s = p.sequences[index];
    if (s.queries == 0) continue;
    const int64_t used = (s.keys + p.block_size - 1) / p.block_size;
    const int64_t first = visible(p.visibility, s, 0).first / p.block_size;
    for (int64_t i = first; i < used; ++i) {
      const int32_t block = p.block_table[index * p.block_table_stride + i];
      if (block < 0 || block >= p.block_count) {
        throw std::runtime_error(std::string(p.name) + ": blockTable[" + std::to_string(index) + "][" +
                                 std::to_string(i) + "] is " + std::to_string(block) + ", the cache has blocks 0 to " +
                                 std::to_string(p.block_count - 1));
      }
    }
  }
}

template <typename T>
void run_item(const Attention& p, const Item& item) {
  if (p.key_steps.scale.empty()) {
    Worker<T, T>(p, item).run();
  } else {
    Worker<T, int8_t>(p, item).run();
  }
}

}  // namespace

void compute_attention(const Attention& p) {
  if (p.block_table) check_blocks(p);
  const int64_t group = p.heads / p.key_heads;
  const int64_t tile = std::max<int64_t>(1, kTileRows / group);
  std::vector<Item> items;
  int64_t work = 0;
  for (size_t index = 0; index < p.sequences.size(); ++index) {
    const Sequence& s = p.sequences[index];
    work += s.queries * s.keys * p.heads * (p.head_size + p.value_size);
    for (int64_t begin = 0; begin < s.queries; begin += tile) {
      for (int64_t head = 0; head < p.key_heads; ++head) {
        items.push_back({index, head, begin, std::min(begin + tile, s.queries)});
      }
    }
  }
  auto run_items = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      switch (p.dtype) {
        case kFloat: Worker<float, float>(p, items[i]).run(); break;
        case kFloat16: run_item<c10::Half>(p, items[i]); break;
        default: run_item<c10::BFloat16>(p, items[i]); break;
      }
    }
  };
  const auto count = static_cast<int64_t>(items.size());
  if (work < kSerialWork) {
    run_items(0, count);
  } else {
    at::parallel_for(0, count, 1, run_items);
  }
}

}  // namespace hostcann::opapi
