// Vector arithmetic: one or two tensors, or a tensor and a scalar. Each line of a table names the documented dtypes.
#pragma once

#include "convert.h"
#include "lanes.h"

namespace ascendc_host {

template <typename T, typename Operation>
void RunUnary(const Instruction& vector, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
              int64_t elements, Operation operation) {
    size_t count = CheckCount(elements);
    const T* from = Elements(vector, src, "src", Use::kRead, count);
    T* to = Elements(vector, dst, "dst", Use::kWrite, count);
    CheckOverlap(to, count * sizeof(T), from, count * sizeof(T));
    ASCENDC_HOST_VECTORISE
    for (size_t i = 0; i < count; ++i) to[i] = operation(from[i]);
}

template <typename T, typename Operation>
void RunBinary(const Instruction& vector, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src0,
               const AscendC::LocalTensor<T>& src1, int64_t elements, Operation operation) {
    size_t count = CheckCount(elements);
    const T* left = Elements(vector, src0, "src0", Use::kRead, count);
    const T* right = Elements(vector, src1, "src1", Use::kRead, count);
    T* to = Elements(vector, dst, "dst", Use::kWrite, count);
    CheckOverlap(to, count * sizeof(T), left, count * sizeof(T));
    CheckOverlap(to, count * sizeof(T), right, count * sizeof(T));
    ASCENDC_HOST_VECTORISE
    for (size_t i = 0; i < count; ++i) to[i] = operation(left[i], right[i]);
}

// e^x within 2 units in the last place, in arithmetic that vectorises: the C library's expf is called per element.
inline float Exponential(float x) {
    float bounded = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves no fraction bits
    float n = (bounded * 1.44269504f + kRound) - kRound;
    float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9841270e-4f;  // Taylor series up to r^7; |r| <= ln(2)/2
    p = p * r + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    // Scaled in two steps, since 2^n alone may be infinite or subnormal.
    int32_t whole = static_cast<int32_t>(n), half_of = whole / 2, rest = whole - half_of;
    int32_t bits0 = (half_of + 127) << 23, bits1 = (rest + 127) << 23;
    float scale0, scale1;
    std::memcpy(&scale0, &bits0, sizeof(scale0));
    std::memcpy(&scale1, &bits1, sizeof(scale1));
    float result = p * scale0 * scale1;
    return x != x ? x : result;
}

// Keeps a parameter out of template argument deduction.
template <typename T>
struct SameType {
    using type = T;
};
template <typename T>
using Same = typename SameType<T>::type;

template <typename T>
constexpr uint32_t kBits = sizeof(T) * 8;

// A shift by the whole width is documented and leaves 0, or the sign.
template <typename T>
T Left(T x, T by) {
    return static_cast<uint32_t>(by) >= kBits<T> ? T(0) : static_cast<T>(static_cast<uint32_t>(x) << by);
}
template <typename T>
T Right(T x, T by) {
    uint32_t width = static_cast<uint32_t>(by) >= kBits<T> ? kBits<T> - 1 : static_cast<uint32_t>(by);
    T shifted = static_cast<T>(x >> width);
    return std::is_unsigned_v<T> && static_cast<uint32_t>(by) >= kBits<T> ? T(0) : shifted;
}

template <typename T>
void CheckScalar(const char* api, T scalar) {
    if constexpr (std::is_integral_v<T>) {
        bool shift = api[0] == 'S';
        if (shift && (scalar < T(0) || static_cast<uint64_t>(scalar) > kBits<T>)) {
            Fail(ASCENDC_HOST_VALUE, "shifts by %lld, outside 0..%u", static_cast<long long>(scalar), kBits<T>);
        }
    } else {
        (void)api;
        (void)scalar;
    }
}

}  // namespace ascendc_host

namespace AscendC {

#define ASCENDC_HOST_BINARY(Name, expression, ...)                                                                  \
    template <typename T, bool isSetMask = true>                                                                    \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,                    \
              const int32_t& count, ASCENDC_HOST_LINE) {                                                            \
        static_assert(isSetMask, #Name ": masks set outside the call are not modelled");                            \
        static_assert(ascendc_host::kOneOf<T, __VA_ARGS__>, #Name ": dtype not in the documented table");           \
        ascendc_host::Instruction vector(ascendc_host::kVector, #Name, line);                                       \
        ascendc_host::RunBinary(vector, dst, src0, src1, count,                                                     \
                                [](T a, T b) { return static_cast<T>(expression); });                               \
    }                                                                                                               \
    template <typename T, bool isSetMask = true, typename Mask>                                                     \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, Mask mask,             \
              uint8_t repeatTime, const BinaryRepeatParams& params, ASCENDC_HOST_LINE) {                            \
        static_assert(isSetMask, #Name ": masks set outside the call are not modelled");                            \
        static_assert(ascendc_host::kOneOf<T, __VA_ARGS__>, #Name ": dtype not in the documented table");           \
        ascendc_host::Instruction vector(ascendc_host::kVector, #Name, line);                                       \
        ascendc_host::RunLanes(vector, dst, src0, src1, ascendc_host::LanesOf<T>(mask),          \
                               repeatTime, params, [](T a, T b) { return static_cast<T>(expression); });            \
    }

ASCENDC_HOST_BINARY(Add, a + b, int16_t, half, int32_t, float)
ASCENDC_HOST_BINARY(Sub, a - b, int16_t, half, int32_t, float)
ASCENDC_HOST_BINARY(Mul, a * b, int16_t, half, int32_t, float)
ASCENDC_HOST_BINARY(Div, a / b, half, float)
ASCENDC_HOST_BINARY(Max, a > b ? a : b, int16_t, half, int32_t, float)
ASCENDC_HOST_BINARY(Min, a < b ? a : b, int16_t, half, int32_t, float)
ASCENDC_HOST_BINARY(And, a & b, int16_t, uint16_t)
ASCENDC_HOST_BINARY(Or, a | b, int16_t, uint16_t)
#undef ASCENDC_HOST_BINARY

#define ASCENDC_HOST_UNARY(Name, expression, ...)                                                                   \
    template <typename T, bool isSetMask = true>                                                                    \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& count, ASCENDC_HOST_LINE) {      \
        static_assert(isSetMask, #Name ": masks set outside the call are not modelled");                            \
        static_assert(ascendc_host::kOneOf<T, __VA_ARGS__>, #Name ": dtype not in the documented table");           \
        ascendc_host::Instruction vector(ascendc_host::kVector, #Name, line);                                       \
        ascendc_host::RunUnary(vector, dst, src, count, [](T x) { return static_cast<T>(expression); });            \
    }                                                                                                               \
    template <typename T, bool isSetMask = true, typename Mask>                                                     \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, uint8_t repeatTime,                  \
              const UnaryRepeatParams& params, ASCENDC_HOST_LINE) {                                                 \
        static_assert(isSetMask, #Name ": masks set outside the call are not modelled");                            \
        static_assert(ascendc_host::kOneOf<T, __VA_ARGS__>, #Name ": dtype not in the documented table");           \
        ascendc_host::Instruction vector(ascendc_host::kVector, #Name, line);                                       \
        ascendc_host::RunLanes(vector, dst, src, ascendc_host::LanesOf<T>(mask), repeatTime,     \
                               {params.dstBlkStride, params.dstRepStride},                                          \
                               {params.srcBlkStride, params.srcRepStride},                                          \
                               [](T x) { return static_cast<T>(expression); });                                     \
    }

ASCENDC_HOST_UNARY(Exp, ascendc_host::Exponential(static_cast<float>(x)), half, float)
ASCENDC_HOST_UNARY(Ln, std::log(static_cast<float>(x)), half, float)
ASCENDC_HOST_UNARY(Abs, x < 0 ? -x : x + 0, half, float)
ASCENDC_HOST_UNARY(Sqrt, std::sqrt(static_cast<float>(x)), half, float)
ASCENDC_HOST_UNARY(Rsqrt, 1.0f / std::sqrt(static_cast<float>(x)), half, float)
ASCENDC_HOST_UNARY(Reciprocal, 1.0f / static_cast<float>(x), half, float)
ASCENDC_HOST_UNARY(Relu, x > 0 ? x : T(0), half, float, int32_t)
ASCENDC_HOST_UNARY(Not, ~x, int16_t, uint16_t)
#undef ASCENDC_HOST_UNARY

// The scalar has the tensor's type; anything convertible is taken, as on the device.
#define ASCENDC_HOST_SCALAR(Name, expression, ...)                                                                  \
    template <typename T, bool isSetMask = true>                                                                    \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const ascendc_host::Same<T>& scalarValue,       \
              const int32_t& count, ASCENDC_HOST_LINE) {                                                            \
        static_assert(isSetMask, #Name ": masks set outside the call are not modelled");                            \
        static_assert(ascendc_host::kOneOf<T, __VA_ARGS__>, #Name ": dtype not in the documented table");           \
        ascendc_host::Instruction vector(ascendc_host::kVector, #Name, line);                                       \
        const T s = scalarValue;                                                                                    \
        ascendc_host::CheckScalar(#Name, s);                                                                        \
        ascendc_host::RunUnary(vector, dst, src, count, [s](T x) { return static_cast<T>(expression); });           \
    }                                                                                                               \
    template <typename T, bool isSetMask = true, typename Mask>                                                     \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const ascendc_host::Same<T>& scalarValue,       \
              Mask mask, uint8_t repeatTime, const UnaryRepeatParams& params, ASCENDC_HOST_LINE) {                  \
        static_assert(isSetMask, #Name ": masks set outside the call are not modelled");                            \
        static_assert(ascendc_host::kOneOf<T, __VA_ARGS__>, #Name ": dtype not in the documented table");           \
        ascendc_host::Instruction vector(ascendc_host::kVector, #Name, line);                                       \
        const T s = scalarValue;                                                                                    \
        ascendc_host::CheckScalar(#Name, s);                                                                        \
        ascendc_host::RunLanes(vector, dst, src, ascendc_host::LanesOf<T>(mask), repeatTime,     \
                               {params.dstBlkStride, params.dstRepStride},                                          \
                               {params.srcBlkStride, params.srcRepStride},                                          \
                               [s](T x) { return static_cast<T>(expression); });                                    \
    }

ASCENDC_HOST_SCALAR(Adds, x + s, int16_t, half, int32_t, float)
ASCENDC_HOST_SCALAR(Muls, x * s, int16_t, half, int32_t, float)
ASCENDC_HOST_SCALAR(Maxs, x > s ? x : s, int16_t, half, int32_t, float)
ASCENDC_HOST_SCALAR(Mins, x < s ? x : s, int16_t, half, int32_t, float)
ASCENDC_HOST_SCALAR(LeakyRelu, x > 0 ? x : x * s, half, float)
ASCENDC_HOST_SCALAR(ShiftLeft, ascendc_host::Left(x, s), int16_t, uint16_t, int32_t, uint32_t)
ASCENDC_HOST_SCALAR(ShiftRight, ascendc_host::Right(x, s), int16_t, uint16_t, int32_t, uint32_t)
#undef ASCENDC_HOST_SCALAR

}  // namespace AscendC
