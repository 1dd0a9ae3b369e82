// FRACTAL_NZ: the format of matrices that the cube units read directly. The last two dimensions [R, C] are cut into
// tiles of 16 rows and C0 columns (32 bytes), and the tiles of one column of tiles follow each other:
// [.., ceil(C / C0), ceil(R / 16), 16, C0]. What a tile has beyond the matrix is zero.
// (source: CANN, data formats, FRACTAL_NZ; torch-npu, FormatHelper, storage sizes)
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "hostcann/acl_types.h"

namespace hostcann {

// What the memory behind a tensor in another format holds is not what its sizes and strides say.
inline bool is_private(int format) {
  switch (format) {
    case kFormatUndefined: case kNchw: case kNhwc: case kNd: case kNcdhw: case kNdhwc: case kNcl:
      return false;
    default:
      return true;
  }
}

// Types that are kept in FRACTAL_NZ here: those of the weights that an operator takes so.
inline bool has_fractal_nz(int dtype) { return dtype == kFloat16 || dtype == kBf16 || dtype == kInt8; }

constexpr int64_t kFractalRows = 16;

constexpr int64_t fractal_columns(int64_t item_bytes) { return 32 / item_bytes; }

// The shape of the memory for matrices of this shape, which has two dimensions at least.
inline std::vector<int64_t> fractal_nz_shape(const std::vector<int64_t>& shape, int64_t item_bytes) {
  const auto tiles = [](int64_t size, int64_t tile) { return (size + tile - 1) / tile; };
  const int64_t rows = shape[shape.size() - 2], columns = shape.back(), c0 = fractal_columns(item_bytes);
  std::vector<int64_t> result(shape.begin(), shape.end() - 2);
  result.insert(result.end(), {tiles(columns, c0), tiles(rows, kFractalRows), kFractalRows, c0});
  return result;
}

// Calls `move(place in the contiguous matrices, place in the tiles, elements)` for each piece of a row in a tile.
template <typename Move>
void for_fractal_rows(const std::vector<int64_t>& shape, int64_t item_bytes, Move&& move) {
  const std::vector<int64_t> tiled = fractal_nz_shape(shape, item_bytes);
  const int64_t rows = shape[shape.size() - 2], columns = shape.back(), c0 = fractal_columns(item_bytes);
  const int64_t padded_rows = tiled[tiled.size() - 3] * kFractalRows, tile_columns = tiled[tiled.size() - 4];
  int64_t matrices = 1;
  for (size_t i = 0; i + 2 < shape.size(); ++i) matrices *= shape[i];
  for (int64_t matrix = 0; matrix < matrices; ++matrix) {
    for (int64_t tile = 0; tile < tile_columns; ++tile) {
      const int64_t first = tile * c0, width = std::min(c0, columns - first);
      for (int64_t row = 0; row < rows; ++row) {
        move((matrix * rows + row) * columns + first, ((matrix * tile_columns + tile) * padded_rows + row) * c0, width);
      }
    }
  }
}

// Contiguous matrices into tiles; `to` has room for fractal_nz_shape.
inline void to_fractal_nz(const void* from, void* to, const std::vector<int64_t>& shape, int64_t item_bytes) {
  int64_t bytes = item_bytes;
  for (const int64_t size : fractal_nz_shape(shape, item_bytes)) bytes *= size;
  std::memset(to, 0, static_cast<size_t>(bytes));
  for_fractal_rows(shape, item_bytes, [&](int64_t plain, int64_t tiled, int64_t count) {
    std::memcpy(static_cast<char*>(to) + tiled * item_bytes, static_cast<const char*>(from) + plain * item_bytes,
                static_cast<size_t>(count * item_bytes));
  });
}

// And back.
inline void from_fractal_nz(const void* from, void* to, const std::vector<int64_t>& shape, int64_t item_bytes) {
  for_fractal_rows(shape, item_bytes, [&](int64_t plain, int64_t tiled, int64_t count) {
    std::memcpy(static_cast<char*>(to) + plain * item_bytes, static_cast<const char*>(from) + tiled * item_bytes,
                static_cast<size_t>(count * item_bytes));
  });
}

}  // namespace hostcann
