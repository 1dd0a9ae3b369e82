// x @ w^T for half and bfloat16 with float32 accumulation, as the cube unit does it. On CPUs without instructions for
// these formats the matrix library is several times slower than this, and decoding spends nearly all its time here.
#include "hostcann/matmul.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <vector>

#include "opapi/simd.h"

namespace hostcann {
namespace {

namespace simd = opapi::simd;
using simd::Floats;
using simd::kWidth;

// Accumulators of one tile: kRows x kColumns vectors, which must fit the registers next to kColumns weights.
constexpr int kRows = 8;
constexpr int kColumns = 3;
// The weights come from memory, once: ask for those of a later tile while this one is computed. (A prefetch past the
// end does no harm.)
constexpr int kAhead = 2 * kColumns;

constexpr int64_t kFewRows = 64;
constexpr int64_t kBlockColumns = 96;

template <typename T>
void widen(const T* from, int64_t count, float* to) {
  simd::sweep(
      count,
      [&](int64_t i) {
        Floats values;
        simd::load(from + i, values);
        simd::store(values, to + i);
      },
      [&](int64_t i, int64_t rest) {
        for (int64_t j = i; j < i + rest; ++j) to[j] = from[j];
      });
}

// One tile: rows of x (float, `depth` apart) times columns (rows of w, `depth` apart).
template <int rows, int columns, typename T>
void tile(const float* x, const T* w, int64_t depth, int64_t whole, float* out, int64_t out_stride) {
  Floats sums[rows][columns] = {};
  // Unrolled, or the sums would live in memory instead of registers.
  for (int64_t k = 0; k < whole; k += kWidth) {
    Floats weights[columns];
#pragma GCC unroll 3
    for (int c = 0; c < columns; ++c) {
      simd::load(w + c * depth + k, weights[c]);
      __builtin_prefetch(w + (c + kAhead) * depth + k);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      Floats values;
      simd::load(x + r * depth + k, values);
#pragma GCC unroll 3
      for (int c = 0; c < columns; ++c) sums[r][c] += values * weights[c];
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      float total = simd::sum(sums[r][c]);
      for (int64_t k = whole; k < depth; ++k) total += x[r * depth + k] * static_cast<float>(w[c * depth + k]);
      out[r * out_stride + c] = total;
    }
  }
}

template <int columns, typename T>
void tile_rows(int64_t rows, const float* x, const T* w, int64_t depth, int64_t whole, float* out, int64_t out_stride) {
  switch (rows) {
    case 1: return tile<1, columns>(x, w, depth, whole, out, out_stride);
    case 2: return tile<2, columns>(x, w, depth, whole, out, out_stride);
    case 3: return tile<3, columns>(x, w, depth, whole, out, out_stride);
    case 4: return tile<4, columns>(x, w, depth, whole, out, out_stride);
    case 5: return tile<5, columns>(x, w, depth, whole, out, out_stride);
    case 6: return tile<6, columns>(x, w, depth, whole, out, out_stride);
    case 7: return tile<7, columns>(x, w, depth, whole, out, out_stride);
    default: return tile<kRows, columns>(x, w, depth, whole, out, out_stride);
  }
}

// Few rows: the weight is read once, in its own format.
template <typename T>
void multiply_tiles(const std::vector<float>& wide, const T* w, const T* bias, T* out, int64_t rows, int64_t depth,
                    int64_t columns) {
  const int64_t whole = depth / kWidth * kWidth;
  const int64_t tiles = (columns + kColumns - 1) / kColumns;
  // About 32k multiplications are worth a task.
  const int64_t grain = std::max<int64_t>(1, 32768 / (rows * depth * kColumns));
  at::parallel_for(0, tiles, grain, [&](int64_t begin, int64_t end) {
    float block[kRows * kColumns];
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t some = std::min<int64_t>(kRows, rows - first);
      for (int64_t t = begin; t < end; ++t) {
        const int64_t column = t * kColumns;
        const int64_t width = std::min<int64_t>(kColumns, columns - column);
        if (width == kColumns) {
          tile_rows<kColumns>(some, wide.data() + first * depth, w + column * depth, depth, whole, block, kColumns);
        } else {
          for (int64_t c = 0; c < width; ++c) {
            tile_rows<1>(some, wide.data() + first * depth, w + (column + c) * depth, depth, whole, block + c, kColumns);
          }
        }
        for (int64_t r = 0; r < some; ++r) {
          for (int64_t c = 0; c < width; ++c) {
            const float offset = bias == nullptr ? 0.0f : static_cast<float>(bias[column + c]);
            out[(first + r) * columns + column + c] = block[r * kColumns + c] + offset;
          }
        }
      }
    }
  });
}

// Many rows: a block of the weight that stays in the cache becomes float and meets all rows in a float product.
template <typename T>
void multiply_blocks(std::vector<float>& wide, const T* w, const T* bias, T* out, int64_t rows, int64_t depth,
                     int64_t columns) {
  const at::Tensor x = at::from_blob(wide.data(), {rows, depth}, at::kFloat);
  const int64_t blocks = (columns + kBlockColumns - 1) / kBlockColumns;
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode no_autograd;
    std::vector<float> weights(static_cast<size_t>(kBlockColumns * depth));
    std::vector<float> products(static_cast<size_t>(kBlockColumns * rows));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t column = b * kBlockColumns;
      const int64_t width = std::min<int64_t>(kBlockColumns, columns - column);
      widen(w + column * depth, width * depth, weights.data());
      at::Tensor product = at::from_blob(products.data(), {rows, width}, at::kFloat);
      at::mm_out(product, x, at::from_blob(weights.data(), {width, depth}, at::kFloat).t());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          const float offset = bias == nullptr ? 0.0f : static_cast<float>(bias[column + c]);
          out[r * columns + column + c] = products[r * width + c] + offset;
        }
      }
    }
  });
}

template <typename T>
void multiply(const T* x, const T* w, const T* bias, T* out, int64_t rows, int64_t depth, int64_t columns) {
  std::vector<float> wide(static_cast<size_t>(rows * depth));
  widen(x, rows * depth, wide.data());
  if (rows <= kFewRows) {
    multiply_tiles(wide, w, bias, out, rows, depth, columns);
  } else {
    multiply_blocks(wide, w, bias, out, rows, depth, columns);
  }
}

}  // namespace

bool suits_linear_matmul(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const c10::ScalarType dtype = x.scalar_type();
  return (dtype == at::kBFloat16 || dtype == at::kHalf) && weight.scalar_type() == dtype && weight.dim() == 2 &&
         x.dim() >= 1 && x.is_contiguous() && x.numel() > 0 && x.size(-1) == weight.size(1) && weight.is_contiguous() &&
         (!bias.defined() || (bias.scalar_type() == dtype && bias.dim() == 1 && bias.size(0) == weight.size(0) &&
                              bias.is_contiguous()));
}

at::Tensor linear_matmul(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t depth = x.size(-1);
  const int64_t columns = weight.size(0);
  const int64_t rows = x.numel() / depth;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = columns;
  at::Tensor out = at::empty(sizes, x.options());
  const auto compute = [&](auto type) {
    using T = decltype(type);
    multiply(x.const_data_ptr<T>(), weight.const_data_ptr<T>(), bias.defined() ? bias.const_data_ptr<T>() : nullptr,
             out.mutable_data_ptr<T>(), rows, depth, columns);
  };
  if (x.scalar_type() == at::kBFloat16) {
    compute(c10::BFloat16());
  } else {
    compute(c10::Half());
  }
  return out;
}

}  // namespace hostcann
