// The arithmetic of reductions. Plain loops over short blocks, which the compiler turns into vector instructions.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "types.h"

namespace hostcann::hccl {
namespace {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Elements that are widened to float together.
constexpr size_t kBlock = 256;

// Calls body(0) to body(length - 1). Whole blocks have a constant number of steps: -O2 makes vectors of those.
template <typename Body>
inline void sweep(size_t length, Body&& body) {
  if (length == kBlock) {
    for (size_t i = 0; i < kBlock; ++i) body(i);
  } else {
    for (size_t i = 0; i < length; ++i) body(i);
  }
}

inline void widen(const BFloat16* from, float* to, size_t count) {
  sweep(count, [=](size_t i) { to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i].bits) << 16); });
}

// Round to nearest even; NaN stays NaN.
inline void narrow(const float* from, BFloat16* to, size_t count) {
  sweep(count, [=](size_t i) {
    const uint32_t bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    to[i].bits = static_cast<uint16_t>(from[i] == from[i] ? rounded : 0x7fc0u);
  });
}

float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = value.bits >> 10 & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
  return sign != 0 ? -magnitude : magnitude;
}

Half to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds beyond the largest half
  if (magnitude < 0x38800000u) {  // below the smallest normal half: a multiple of 2^-24, rounded to even
    const float scaled = std::nearbyint(std::ldexp(std::bit_cast<float>(magnitude), 24));
    return {static_cast<uint16_t>(sign | static_cast<uint16_t>(scaled))};
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13)};
}

void widen(const Half* from, float* to, size_t count) {
  size_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
#endif
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

void narrow(const float* from, Half* to, size_t count) {
  size_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; i < count; ++i) to[i] = to_half(from[i]);
}

// Integers wrap around, as they do on the device; unsigned arithmetic makes that defined.
template <typename T>
struct Arithmetic {
  using Type = T;
};
template <> struct Arithmetic<int8_t> { using Type = uint32_t; };
template <> struct Arithmetic<int16_t> { using Type = uint32_t; };
template <> struct Arithmetic<int32_t> { using Type = uint32_t; };
template <> struct Arithmetic<int64_t> { using Type = uint64_t; };

struct Sum {
  template <typename T>
  static T apply(T a, T b) {
    using Wide = typename Arithmetic<T>::Type;
    return static_cast<T>(static_cast<Wide>(a) + static_cast<Wide>(b));
  }
};
struct Product {
  template <typename T>
  static T apply(T a, T b) {
    using Wide = typename Arithmetic<T>::Type;
    return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b));
  }
};
struct Maximum {
  template <typename T>
  static T apply(T a, T b) { return a < b ? b : a; }
};
struct Minimum {
  template <typename T>
  static T apply(T a, T b) { return b < a ? b : a; }
};

template <typename T, typename Operation>
void reduce(void* target, const void* left, const void* right, size_t bytes) {
  T* const to = static_cast<T*>(target);
  const T* const a = static_cast<const T*>(left);
  const T* const b = static_cast<const T*>(right);
  const size_t count = bytes / sizeof(T);
  T block[kBlock];  // target may be left: the compiler need not test for overlaps
  for (size_t start = 0; start < count; start += kBlock) {
    const size_t length = std::min(kBlock, count - start);
    sweep(length, [&](size_t i) { block[i] = Operation::template apply<T>(a[start + i], b[start + i]); });
    std::memcpy(to + start, block, length * sizeof(T));
  }
}

template <typename T, typename Operation>
void reduce_wide(void* target, const void* left, const void* right, size_t bytes) {
  T* const to = static_cast<T*>(target);
  const T* const a = static_cast<const T*>(left);
  const T* const b = static_cast<const T*>(right);
  const size_t count = bytes / sizeof(T);
  float first[kBlock];
  float second[kBlock];
  for (size_t start = 0; start < count; start += kBlock) {
    const size_t length = std::min(kBlock, count - start);
    widen(a + start, first, length);
    widen(b + start, second, length);
    sweep(length, [&](size_t i) { first[i] = Operation::template apply<float>(first[i], second[i]); });
    narrow(first, to + start, length);
  }
}

template <typename Operation>
Reduction of_type(int data_type) {
  switch (data_type) {
    case 0: return reduce<int8_t, Operation>;
    case 1: return reduce<int16_t, Operation>;
    case 2: return reduce<int32_t, Operation>;
    case 3: return reduce_wide<Half, Operation>;
    case 4: return reduce<float, Operation>;
    case 5: return reduce<int64_t, Operation>;
    case 6: return reduce<uint64_t, Operation>;
    case 10: return reduce<double, Operation>;
    case 11: return reduce_wide<BFloat16, Operation>;
    default: return nullptr;
  }
}

}  // namespace

Reduction find_reduction(int data_type, int operation) {
  switch (operation) {
    case 0: return of_type<Sum>(data_type);
    case 1: return of_type<Product>(data_type);
    case 2: return of_type<Maximum>(data_type);
    case 3: return of_type<Minimum>(data_type);
    default: return nullptr;
  }
}

}  // namespace hostcann::hccl
