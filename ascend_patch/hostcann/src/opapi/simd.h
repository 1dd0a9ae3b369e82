// Sixteen floats at a time, in plain C++: GCC and Clang vector types, which the compiler maps to whatever the machine
// has. Values are read from and written to float, half and bfloat16 memory, and read from int8; all arithmetic is float.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace hostcann::opapi::simd {

constexpr int64_t kWidth = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Shorts __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

inline Floats broadcast(float value) { return Floats{} + value; }

inline void load(const float* from, Floats& to) { std::memcpy(&to, from, sizeof to); }

inline void load(const c10::BFloat16* from, Floats& to) {
  Shorts raw;
  std::memcpy(&raw, from, sizeof raw);
  const Words bits = __builtin_convertvector(raw, Words) << 16;
  std::memcpy(&to, &bits, sizeof to);
}

inline void load(const c10::Half* from, Floats& to) {
#if defined(__F16C__)
  const __m256 low = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  const __m256 high = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8)));
  std::memcpy(&to, &low, sizeof low);
  std::memcpy(reinterpret_cast<char*>(&to) + sizeof low, &high, sizeof high);
#else
  float values[kWidth];
  for (int i = 0; i < kWidth; ++i) values[i] = from[i];
  std::memcpy(&to, values, sizeof to);
#endif
}

inline void load(const int8_t* from, Floats& to) {
  Bytes raw;
  std::memcpy(&raw, from, sizeof raw);
  to = __builtin_convertvector(raw, Floats);
}

inline void store(const Floats& from, float* to) { std::memcpy(to, &from, sizeof from); }

// Round to nearest even, as the hardware's cast does; NaN stays NaN.
inline void store(const Floats& from, c10::BFloat16* to) {
  Words bits;
  std::memcpy(&bits, &from, sizeof bits);
  const Words rounded = (bits + (0x7fffu + (bits >> 16 & 1u))) >> 16;
  const Words is_nan = (Words)(from != from);
  const Shorts raw = __builtin_convertvector((rounded & ~is_nan) | (0x7fc0u & is_nan), Shorts);
  std::memcpy(to, &raw, sizeof raw);
}

inline void store(const Floats& from, c10::Half* to) {
#if defined(__F16C__)
  __m256 half[2];
  std::memcpy(half, &from, sizeof half);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(half[0], _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), _mm256_cvtps_ph(half[1], _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kWidth; ++i) to[i] = from[i];
#endif
}

inline float sum(const Floats& values) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  // In registers: the way through memory below stalls on store forwarding.
  Floats v = values;
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return v[0] + v[1];
#else
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  Eight half[2];
  std::memcpy(half, &values, sizeof values);
  const Eight eight = half[0] + half[1];
  Four quarter[2];
  std::memcpy(quarter, &eight, sizeof eight);
  const Four four = quarter[0] + quarter[1];
  return (four[0] + four[1]) + (four[2] + four[3]);
#endif
}

// exp(x) to about 2 ulp: x = n ln2 + r, exp(x) = 2^n exp(r), with a degree-6 polynomial for |r| <= ln2/2 (the Taylor
// coefficients are enough there). Below -87 the result is 0, above 88.7 it is infinity.
inline Floats exponential(const Floats& x) {
  const Floats clamped_low = x < -87.3f ? broadcast(-87.3f) : x;
  const Floats clamped = clamped_low > 88.7f ? broadcast(88.7f) : clamped_low;
  const Floats scaled = clamped * 1.44269504088896341f;
  const Ints n = __builtin_convertvector(scaled + (scaled < 0.0f ? broadcast(-0.5f) : broadcast(0.5f)), Ints);
  const Floats whole = __builtin_convertvector(n, Floats);
  const Floats r = clamped - whole * 0.693359375f - whole * -2.12194440e-4f;  // ln2 in two parts
  Floats p = broadcast(1.0f / 5040.0f);
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n in two factors: n reaches 128, which is not a float exponent.
  const Ints half = n >> 1;
  const Ints first = (half + 127) << 23;
  const Ints second = (n - half + 127) << 23;
  Floats a, b;
  std::memcpy(&a, &first, sizeof a);
  std::memcpy(&b, &second, sizeof b);
  Floats result = p * a * b;
  result = x < -87.3f ? Floats{} : result;
  result = x > 88.7f ? broadcast(INFINITY) : result;
  return x != x ? x : result;
}

// Runs step(offset) over whole vectors of [0, n) and tail(offset, count) over the rest.
template <typename Step, typename Tail>
inline void sweep(int64_t n, Step&& step, Tail&& tail) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) step(i);
  if (i < n) tail(i, n - i);
}

// load and store for the last, partial vector; missing lanes are `fill`.
template <typename T>
inline void load_part(const T* from, int64_t count, Floats& to, float fill = 0.0f) {
  float values[kWidth];
  for (int64_t i = 0; i < kWidth; ++i) values[i] = i < count ? static_cast<float>(from[i]) : fill;
  load(values, to);
}

template <typename T>
inline void store_part(const Floats& from, int64_t count, T* to) {
  float values[kWidth];
  store(from, values);
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(values[i]);
}

}  // namespace hostcann::opapi::simd
