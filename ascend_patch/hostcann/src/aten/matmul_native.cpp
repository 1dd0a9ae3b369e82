// x @ w^T for half and bfloat16, straight from memory in those formats and with float32 accumulation, as the cube unit
// does it. Libraries convert the whole weight first where the CPU has no instructions for the format, which is what
// decoding, with its few rows, spends nearly all of its time on.
#include "matmul.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <vector>

#include "../opapi/simd.h"

namespace hostcann::aten {
namespace {

namespace simd = hostcann::opapi::simd;
using simd::Floats;
using simd::kWidth;

// Accumulators of one tile: kRows x kColumns vectors, which must fit the registers next to kColumns weights.
constexpr int kRows = 8;
constexpr int kColumns = 3;

// One tile: rows of x (float, `depth` apart) times columns (rows of w, `depth` apart).
template <int rows, int columns, typename T>
void tile(const float* x, const T* w, int64_t depth, int64_t whole, float* out, int64_t out_stride) {
  Floats sums[rows][columns] = {};
  for (int64_t k = 0; k < whole; k += kWidth) {
    Floats weights[columns];
    for (int c = 0; c < columns; ++c) simd::load(w + c * depth + k, weights[c]);
    for (int r = 0; r < rows; ++r) {
      Floats values;
      simd::load(x + r * depth + k, values);
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

template <typename T>
void multiply(const T* x, const T* w, T* out, int64_t rows, int64_t depth, int64_t columns) {
  std::vector<float> wide(static_cast<size_t>(rows * depth));
  for (int64_t i = 0; i < rows * depth; ++i) wide[i] = x[i];
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
          for (int64_t c = 0; c < width; ++c) out[(first + r) * columns + column + c] = block[r * kColumns + c];
        }
      }
    }
  });
}

}  // namespace

bool suits_narrow_matmul(const at::Tensor& x, const at::Tensor& transposed_weight) {
  const c10::ScalarType dtype = x.scalar_type();
  return (dtype == at::kBFloat16 || dtype == at::kHalf) && transposed_weight.scalar_type() == dtype &&
         transposed_weight.dim() == 2 && x.dim() >= 1 && x.is_contiguous() && x.numel() > 0 &&
         x.size(-1) == transposed_weight.size(0) && transposed_weight.stride(0) == 1 &&
         transposed_weight.stride(1) == transposed_weight.size(0) &&
         x.numel() / x.size(-1) <= kNarrowRows;
}

at::Tensor narrow_matmul(const at::Tensor& x, const at::Tensor& transposed_weight) {
  const int64_t depth = x.size(-1);
  const int64_t columns = transposed_weight.size(1);
  const int64_t rows = x.numel() / depth;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = columns;
  at::Tensor out = at::empty(sizes, x.options());
  if (x.scalar_type() == at::kBFloat16) {
    multiply(x.const_data_ptr<c10::BFloat16>(), transposed_weight.const_data_ptr<c10::BFloat16>(),
             out.mutable_data_ptr<c10::BFloat16>(), rows, depth, columns);
  } else {
    multiply(x.const_data_ptr<c10::Half>(), transposed_weight.const_data_ptr<c10::Half>(),
             out.mutable_data_ptr<c10::Half>(), rows, depth, columns);
  }
  return out;
}

}  // namespace hostcann::aten
