// Cast, with the documented pairs of types and their round modes (Atlas A2/A3; int4b_t is left out).
#pragma once

#include "arithmetic.h"

namespace ascendc_host {

constexpr uint32_t Bit(RoundMode mode) { return 1u << static_cast<uint32_t>(mode); }
constexpr uint32_t kNone = Bit(RoundMode::CAST_NONE);
constexpr uint32_t kFive = Bit(RoundMode::CAST_RINT) | Bit(RoundMode::CAST_FLOOR) | Bit(RoundMode::CAST_CEIL) |
                           Bit(RoundMode::CAST_ROUND) | Bit(RoundMode::CAST_TRUNC);
constexpr uint32_t kAnyMode = ~0u;

// Round modes of a pair of types, 0 for a pair that does not exist.
template <typename To, typename From>
constexpr uint32_t CastModes() {
    constexpr auto is = [](auto* from, auto* to) {
        return std::is_same_v<From, std::remove_pointer_t<decltype(from)>> &&
               std::is_same_v<To, std::remove_pointer_t<decltype(to)>>;
    };
    constexpr half* f16 = nullptr;
    constexpr float* f32 = nullptr;
    constexpr bfloat16_t* bf16 = nullptr;
    constexpr int8_t* i8 = nullptr;
    constexpr uint8_t* u8 = nullptr;
    constexpr int16_t* i16 = nullptr;
    constexpr int32_t* i32 = nullptr;
    constexpr int64_t* i64 = nullptr;
    if (is(i8, f16) || is(u8, f16) || is(i16, f32) || is(f16, f32) || is(bf16, f32) || is(i32, i16) || is(i32, i64) ||
        is(i64, i32)) {
        return kNone;
    }
    if (is(i16, f16) || is(f16, i8) || is(f16, u8) || is(i32, f32)) return kFive | kNone;
    if (is(f32, f16)) return kFive | kNone | Bit(RoundMode::CAST_ODD);
    if (is(f16, i16) || is(f16, i32) || is(bf16, i32) || is(f32, i16) || is(f32, bf16) || is(f32, i32) || is(f32, f32) ||
        is(f32, i64) || is(i64, f32)) {
        return kFive;
    }
    if (is(i32, f16)) return kAnyMode;
    return 0;
}

template <typename To, typename From>
To Convert(From value, RoundMode mode, float scale) {
    (void)scale;
    if constexpr (std::is_same_v<To, From>) {  // float to float rounds to a whole number
        return static_cast<To>(RoundToInteger(static_cast<double>(value), mode));
    } else if constexpr (std::is_same_v<From, int32_t> && std::is_same_v<To, half>) {
        return static_cast<half>(static_cast<float>(value) * scale);
    } else if constexpr (std::is_same_v<From, int64_t> && std::is_same_v<To, int32_t>) {
        constexpr int64_t low = std::numeric_limits<int32_t>::min(), high = std::numeric_limits<int32_t>::max();
        return static_cast<int32_t>(value < low ? low : value > high ? high : value);
    } else if constexpr (std::is_integral_v<To> && std::is_integral_v<From>) {
        return sizeof(To) >= sizeof(From) ? static_cast<To>(value) : Saturate<To>(static_cast<double>(value));
    } else if constexpr (std::is_integral_v<To>) {
        return Saturate<To>(RoundToInteger(static_cast<double>(Widen(value)), mode));
    } else if constexpr (std::is_same_v<From, int64_t>) {
        // A double holds 53 bits; what it rounds to odd rounds to float as the integer itself would.
        double near = static_cast<double>(value);
        constexpr double kTooLarge = 9223372036854775808.0;
        if (near >= kTooLarge) near = std::nextafter(near, 0.0);
        int64_t back = static_cast<int64_t>(near);
        if (back != value) {
            double other = std::nextafter(near, back < value ? kTooLarge : -kTooLarge);
            uint64_t bits;
            std::memcpy(&bits, &near, sizeof(bits));
            if ((bits & 1) == 0) near = other;
        }
        return Narrow<To>(near, mode);
    } else {
        return Narrow<To>(static_cast<double>(Widen(value)), mode);
    }
}

// The conversions on every kernel's way, in loops that vectorise; the rest goes element by element.
template <typename To, typename From>
void ConvertMany(To* to, const From* from, size_t count, RoundMode mode, float scale) {
    bool nearest = mode == RoundMode::CAST_NONE || mode == RoundMode::CAST_RINT;
    constexpr bool floats = kOneOf<To, half, float> && kOneOf<From, half, float, int8_t, uint8_t, int16_t, int32_t>;
    constexpr bool scaled = std::is_same_v<From, int32_t> && std::is_same_v<To, half>;
    if constexpr (floats && !scaled && !std::is_same_v<To, From>) {
        if (nearest) {
            for (size_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]);
            return;
        }
    }
    if constexpr (std::is_same_v<From, bfloat16_t> && std::is_same_v<To, float>) {
        for (size_t i = 0; i < count; ++i) to[i] = Widen(from[i]);
        return;
    }
    if constexpr (std::is_same_v<From, float> && std::is_same_v<To, bfloat16_t>) {
        if (nearest) {
            for (size_t i = 0; i < count; ++i) to[i].bits = NearestBfloat16(from[i]);
            return;
        }
    }
    if constexpr (std::is_integral_v<To> && std::is_integral_v<From> && sizeof(To) > sizeof(From)) {
        for (size_t i = 0; i < count; ++i) to[i] = from[i];
        return;
    }
    for (size_t i = 0; i < count; ++i) to[i] = Convert<To, From>(from[i], mode, scale);
}

inline void CheckMode(uint32_t allowed, RoundMode mode) {
    if ((allowed & Bit(mode)) != 0) return;
    constexpr const char* names[] = {"CAST_NONE",  "CAST_RINT",  "CAST_FLOOR", "CAST_CEIL",
                                     "CAST_ROUND", "CAST_TRUNC", "CAST_ODD"};
    Fail(ASCENDC_HOST_VALUE, "%s is not documented for this pair of types", names[static_cast<size_t>(mode)]);
}

}  // namespace ascendc_host

namespace AscendC {

template <typename T, typename U>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& roundMode, uint32_t count,
          ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    constexpr uint32_t modes = CastModes<T, U>();
    static_assert(modes != 0, "Cast: pair of dtypes not in the documented table");
    Instruction vector(kVector, "Cast", line);
    CheckMode(modes, roundMode);
    const U* from = Elements(vector, src, "src", Use::kRead, count);
    T* to = Elements(vector, dst, "dst", Use::kWrite, count);
    float scale = static_cast<float>(vector.core.deq_scale);
    const void *d = to, *s = from;
    if (d == s && sizeof(T) != sizeof(U)) {
        if (sizeof(T) > sizeof(U)) {
            Fail(ASCENDC_HOST_OVERLAP, "widens in place, which overwrites elements before they are read");
        }
        for (uint32_t i = 0; i < count; ++i) {
            U value;
            std::memcpy(&value, from + i, sizeof(U));
            T converted = Convert<T, U>(value, roundMode, scale);
            std::memcpy(reinterpret_cast<uint8_t*>(to) + i * sizeof(T), &converted, sizeof(T));
        }
        return;
    }
    CheckOverlap(to, count * sizeof(T), from, count * sizeof(U));
    ConvertMany<T, U>(to, from, count, roundMode, scale);
}

template <typename T, typename U, bool isSetMask = true, typename Mask>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& roundMode, Mask mask,
          uint8_t repeatTime, const UnaryRepeatParams& params, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    constexpr uint32_t modes = CastModes<T, U>();
    static_assert(modes != 0, "Cast: pair of dtypes not in the documented table");
    static_assert(isSetMask, "Cast: masks set outside the call are not modelled");
    Instruction vector(kVector, "Cast", line);
    CheckMode(modes, roundMode);
    float scale = static_cast<float>(vector.core.deq_scale);
    RunLanes(vector, dst, src, LanesOf<std::conditional_t<(sizeof(T) > sizeof(U)), T, U>>(mask), repeatTime,
             {params.dstBlkStride, params.dstRepStride}, {params.srcBlkStride, params.srcRepStride},
             [=](U value) { return Convert<T, U>(value, roundMode, scale); });
}

inline void SetDeqScale(half scale) { ascendc_host::TheCore().deq_scale = scale; }

// Scalar conversion; the documentation has float to half and float to int32_t.
template <typename T, typename U, RoundMode roundMode>
U ScalarCast(T value) {
    static_assert(std::is_same_v<T, float> && ascendc_host::kOneOf<U, half, int32_t>,
                  "ScalarCast: pair of dtypes not in the documented table");
    return ascendc_host::Convert<U, T>(value, roundMode, 1.0f);
}

}  // namespace AscendC
