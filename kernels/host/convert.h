// Scalar conversions between the element types, with the documented round modes.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "types.h"

namespace ascendc_host {

using AscendC::RoundMode;

inline float Widen(bfloat16_t value) {
    uint32_t bits = uint32_t{value.bits} << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof(wide));
    return wide;
}

template <typename T>
constexpr T Widen(T value) {
    return value;
}

// To nearest, ties to even, without a branch that would keep the compiler from vectorising.
inline uint16_t NearestBfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16;
    return static_cast<uint16_t>(value != value ? (bits >> 16) | 0x40u : rounded);
}

// Floating-point formats narrower than the source, by their bit pattern: the magnitude grows with the pattern, so the
// neighbours of a rounded value are one apart.
template <typename To>
struct Format;
template <>
struct Format<half> {
    using Bits = uint16_t;
    static Bits Nearest(double value) {
        half narrow = static_cast<half>(static_cast<float>(value));
        Bits bits;
        std::memcpy(&bits, &narrow, sizeof(bits));
        return bits;
    }
    static double Value(Bits bits) {
        half narrow;
        std::memcpy(&narrow, &bits, sizeof(narrow));
        return static_cast<double>(static_cast<float>(narrow));
    }
};
template <>
struct Format<bfloat16_t> {
    using Bits = uint16_t;
    static Bits Nearest(double value) { return NearestBfloat16(static_cast<float>(value)); }
    static double Value(Bits bits) { return static_cast<double>(Widen(bfloat16_t{bits})); }
};
template <>
struct Format<float> {
    using Bits = uint32_t;
    static Bits Nearest(double value) {
        float narrow = static_cast<float>(value);
        Bits bits;
        std::memcpy(&bits, &narrow, sizeof(bits));
        return bits;
    }
    static double Value(Bits bits) {
        float narrow;
        std::memcpy(&narrow, &bits, sizeof(narrow));
        return static_cast<double>(narrow);
    }
};

// `value` must be exact in double; every source type of the Cast table except int64 is.
template <typename To>
typename Format<To>::Bits RoundBits(double value, RoundMode mode) {
    using F = Format<To>;
    typename F::Bits nearest = F::Nearest(value);
    if (mode == RoundMode::CAST_NONE || mode == RoundMode::CAST_RINT || !std::isfinite(value)) return nearest;
    double magnitude = std::fabs(value), found = std::fabs(F::Value(nearest));
    if (found == magnitude) return nearest;
    auto below = found > magnitude ? static_cast<typename F::Bits>(nearest - 1) : nearest;
    auto above = static_cast<typename F::Bits>(below + 1);
    switch (mode) {
        case RoundMode::CAST_FLOOR: return value < 0 ? above : below;
        case RoundMode::CAST_CEIL: return value < 0 ? below : above;
        case RoundMode::CAST_TRUNC: return below;
        case RoundMode::CAST_ODD: return static_cast<typename F::Bits>(below | 1);
        default: {  // CAST_ROUND: ties away from zero
            double low = std::fabs(F::Value(below)), high = std::fabs(F::Value(above));
            return !std::isfinite(high) ? nearest : magnitude - low >= high - magnitude ? above : below;
        }
    }
}

template <typename To>
To Narrow(double value, RoundMode mode) {
    auto bits = RoundBits<To>(value, mode);
    To narrow;
    std::memcpy(&narrow, &bits, sizeof(narrow));
    return narrow;
}

inline double RoundToInteger(double value, RoundMode mode) {
    switch (mode) {
        case RoundMode::CAST_FLOOR: return std::floor(value);
        case RoundMode::CAST_CEIL: return std::ceil(value);
        case RoundMode::CAST_ROUND: return std::round(value);
        case RoundMode::CAST_TRUNC: return std::trunc(value);
        default: return std::nearbyint(value);
    }
}

// Integers saturate; NaN becomes 0.
template <typename To>
To Saturate(double value) {
    using Limits = std::numeric_limits<To>;
    if (value != value) return 0;
    if (value <= static_cast<double>(Limits::min())) return Limits::min();
    if (value >= static_cast<double>(Limits::max())) return Limits::max();
    return static_cast<To>(value);
}

}  // namespace ascendc_host

namespace AscendC {

inline float ToFloat(const bfloat16_t& value) { return ascendc_host::Widen(value); }
inline bfloat16_t ToBfloat16(const float& value) { return {ascendc_host::NearestBfloat16(value)}; }

}  // namespace AscendC
