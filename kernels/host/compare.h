// Compare and Select: one bit per element, the first element in the lowest bit of the first byte.
#pragma once

#include "arithmetic.h"

namespace ascendc_host {

using AscendC::CMPMODE;

template <typename T, typename Right, typename Test>
void PackBits(uint8_t* to, const T* left, Right right, size_t count, Test test) {
    for (size_t byte = 0; byte < count / 8; ++byte) {
        uint32_t bits = 0;
        for (uint32_t bit = 0; bit < 8; ++bit) {
            bits |= static_cast<uint32_t>(test(left[byte * 8 + bit], right(byte * 8 + bit))) << bit;
        }
        to[byte] = static_cast<uint8_t>(bits);
    }
}

template <typename T, typename Right>
void RunCompare(uint8_t* to, const T* left, Right right, size_t count, CMPMODE mode) {
    switch (mode) {
        case CMPMODE::LT: return PackBits(to, left, right, count, [](T a, T b) { return a < b; });
        case CMPMODE::GT: return PackBits(to, left, right, count, [](T a, T b) { return a > b; });
        case CMPMODE::EQ: return PackBits(to, left, right, count, [](T a, T b) { return a == b; });
        case CMPMODE::LE: return PackBits(to, left, right, count, [](T a, T b) { return a <= b; });
        case CMPMODE::GE: return PackBits(to, left, right, count, [](T a, T b) { return a >= b; });
        case CMPMODE::NE: return PackBits(to, left, right, count, [](T a, T b) { return a != b; });
    }
}

template <typename T>
void CheckCompare(CMPMODE mode, size_t count) {
    if (std::is_same_v<T, int32_t> && mode != CMPMODE::EQ) {
        Fail(ASCENDC_HOST_VALUE, "int32_t can only be compared with CMPMODE::EQ; Cast to float first");
    }
    if (count * sizeof(T) % kRepeatBytes != 0) {
        Fail(ASCENDC_HOST_LENGTH, "count %zu takes %zu bytes, which is not a multiple of 256; pad the tile", count,
             count * sizeof(T));
    }
}

// The bits of an element; they may alias its type.
template <typename T>
struct BitsOf;
template <>
struct BitsOf<half> {
    using type [[gnu::may_alias]] = uint16_t;
};
template <>
struct BitsOf<float> {
    using type [[gnu::may_alias]] = uint32_t;
};

// to[i] = bit i of the mask ? one[i] : zero(i), in arithmetic on bits: a branch per element would be mispredicted.
template <typename Bits, typename Zero>
void SelectBits(Bits* to, const uint8_t* mask, const Bits* one, Zero zero, size_t count) {
    size_t whole = count / 8;
    for (size_t byte = 0; byte < whole; ++byte) {
        uint32_t packed = mask[byte];
        Bits chosen[8];
        for (uint32_t bit = 0; bit < 8; ++bit) {
            Bits keep = static_cast<Bits>(0u - ((packed >> bit) & 1u));
            chosen[bit] = static_cast<Bits>((one[byte * 8 + bit] & keep) | (zero(byte * 8 + bit) & ~keep));
        }
        for (uint32_t bit = 0; bit < 8; ++bit) to[byte * 8 + bit] = chosen[bit];
    }
    for (size_t i = whole * 8; i < count; ++i) to[i] = (mask[i / 8] >> (i % 8)) & 1 ? one[i] : zero(i);
}

template <typename T>
constexpr bool kComparable = kOneOf<T, half, float, int32_t>;

template <typename T>
void RunCompares(const Instruction& vector, const AscendC::LocalTensor<uint8_t>& dst,
                 const AscendC::LocalTensor<T>& src0, T scalar, CMPMODE mode, uint32_t count) {
    CheckCompare<T>(mode, count);
    const T* left = Elements(vector, src0, "src0", Use::kRead, count);
    uint8_t* to = Elements(vector, dst, "dst", Use::kWrite, count / 8);
    CheckOverlap(to, count / 8, left, count * sizeof(T));
    RunCompare(to, left, [scalar](size_t) { return scalar; }, count, mode);
}

}  // namespace ascendc_host

namespace AscendC {

template <typename T, typename U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE cmpMode,
             uint32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kComparable<T> && kOneOf<U, int8_t, uint8_t>, "Compare: dtype not in the documented table");
    Instruction vector(kVector, "Compare", line);
    CheckCompare<T>(cmpMode, count);
    const T* left = Elements(vector, src0, "src0", Use::kRead, count);
    const T* right = Elements(vector, src1, "src1", Use::kRead, count);
    U* to = Elements(vector, dst, "dst", Use::kWrite, count / 8);
    CheckOverlap(to, count / 8, left, count * sizeof(T));
    CheckOverlap(to, count / 8, right, count * sizeof(T));
    RunCompare(reinterpret_cast<uint8_t*>(to), left, [right](size_t i) { return right[i]; }, count, cmpMode);
}

// CompareScalar is the older name of Compares; both are documented.
#define ASCENDC_HOST_COMPARES(Name)                                                                                  \
    template <typename T, typename U>                                                                                \
    void Name(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const ascendc_host::Same<T> src1Scalar,         \
              CMPMODE cmpMode, uint32_t count, ASCENDC_HOST_LINE) {                                                  \
        static_assert(ascendc_host::kComparable<T> && std::is_same_v<U, uint8_t>,                                    \
                      #Name ": dtype not in the documented table");                                                  \
        ascendc_host::RunCompares(ascendc_host::Instruction(ascendc_host::kVector, #Name, line), dst, src0,          \
                                  T(src1Scalar), cmpMode, count);                                                    \
    }
ASCENDC_HOST_COMPARES(Compares)
ASCENDC_HOST_COMPARES(CompareScalar)
#undef ASCENDC_HOST_COMPARES

// Mode 0 uses the same mask bits in every repeat; mode 2 goes on through the mask.
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            const LocalTensor<T>& src1, SELMODE selMode, uint32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, half, float> && kOneOf<U, uint8_t, uint16_t, uint32_t, uint64_t>,
                  "Select: dtype not in the documented table");
    Instruction vector(kVector, "Select", line);
    if (selMode == SELMODE::VSEL_TENSOR_SCALAR_MODE) {
        Fail(ASCENDC_HOST_VALUE, "VSEL_TENSOR_SCALAR_MODE takes a scalar as src1");
    }
    constexpr size_t repeat = kRepeatBytes / sizeof(T);
    bool repeated = selMode == SELMODE::VSEL_CMPMASK_SPR;
    size_t mask_bits = repeated ? std::min<size_t>(count, repeat) : count;
    size_t mask_elements = ((mask_bits + 7) / 8 + sizeof(U) - 1) / sizeof(U);
    const auto* bits =
        reinterpret_cast<const uint8_t*>(Elements(vector, selMask, "selMask", Use::kRead, mask_elements));
    const T* one = Elements(vector, src0, "src0", Use::kRead, count);
    const T* zero = Elements(vector, src1, "src1", Use::kRead, count);
    T* to = Elements(vector, dst, "dst", Use::kWrite, count);
    CheckOverlap(to, count * sizeof(T), one, count * sizeof(T));
    CheckOverlap(to, count * sizeof(T), zero, count * sizeof(T));
    CheckOverlap(to, count * sizeof(T), bits, mask_elements * sizeof(U));
    using Bits = typename BitsOf<T>::type;
    for (size_t first = 0; first < count; first += repeated ? repeat : count) {
        size_t length = repeated ? std::min(repeat, count - first) : count;
        const Bits* other = reinterpret_cast<const Bits*>(zero + first);
        SelectBits(reinterpret_cast<Bits*>(to + first), bits, reinterpret_cast<const Bits*>(one + first),
                   [other](size_t i) { return other[i]; }, length);
    }
}

template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& selMask, const LocalTensor<T>& src0,
            ascendc_host::Same<T> src1, SELMODE selMode, uint32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, half, float> && kOneOf<U, uint8_t, uint16_t, uint32_t, uint64_t>,
                  "Select: dtype not in the documented table");
    Instruction vector(kVector, "Select", line);
    if (selMode != SELMODE::VSEL_TENSOR_SCALAR_MODE) {
        Fail(ASCENDC_HOST_VALUE, "a scalar src1 needs VSEL_TENSOR_SCALAR_MODE");
    }
    size_t mask_elements = ((size_t{count} + 7) / 8 + sizeof(U) - 1) / sizeof(U);
    const auto* bits =
        reinterpret_cast<const uint8_t*>(Elements(vector, selMask, "selMask", Use::kRead, mask_elements));
    const T* one = Elements(vector, src0, "src0", Use::kRead, count);
    T* to = Elements(vector, dst, "dst", Use::kWrite, count);
    CheckOverlap(to, count * sizeof(T), one, count * sizeof(T));
    CheckOverlap(to, count * sizeof(T), bits, mask_elements * sizeof(U));
    using Bits = typename BitsOf<T>::type;
    Bits other;
    std::memcpy(&other, &src1, sizeof(other));
    SelectBits(reinterpret_cast<Bits*>(to), bits, reinterpret_cast<const Bits*>(one), [other](size_t) { return other; },
               count);
}

}  // namespace AscendC
