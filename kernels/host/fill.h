// Duplicate, Brcb, Copy, index vectors, Gather.
#pragma once

#include "arithmetic.h"

namespace AscendC {

template <typename T>
void Duplicate(const LocalTensor<T>& dst, const ascendc_host::Same<T>& scalarValue, const int32_t& count,
               ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float>,
                  "Duplicate: dtype not in the documented table");
    Instruction vector(kVector, "Duplicate", line);
    size_t elements = CheckCount(count);
    T* to = Elements(vector, dst, "dst", Use::kWrite, elements);
    const T value = scalarValue;
    std::fill(to, to + elements, value);
}

template <typename T, bool isSetMask = true, typename Mask>
void Duplicate(const LocalTensor<T>& dst, const ascendc_host::Same<T>& scalarValue, Mask mask, uint8_t repeatTime,
               uint16_t dstBlockStride, uint8_t dstRepeatStride, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float>,
                  "Duplicate: dtype not in the documented table");
    static_assert(isSetMask, "Duplicate: masks set outside the call are not modelled");
    Instruction vector(kVector, "Duplicate", line);
    constexpr uint32_t lanes = kRepeatBytes / sizeof(T);
    Lanes active = LanesOf<T>(mask);
    Strides to{dstBlockStride, dstRepeatStride};
    T* output = TouchLanes(vector, dst, "dst", Use::kWrite, active, lanes, repeatTime, to);
    for (uint32_t repeat = 0; repeat < repeatTime; ++repeat) {
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (active[lane]) *At(output, to, repeat, lane) = scalarValue;
        }
    }
}

// Each of the 8 elements of a repeat fills one 32-byte block.
template <typename T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint8_t repeatTime, const BrcbRepeatParams& params,
          ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float>,
                  "Brcb: dtype not in the documented table");
    Instruction vector(kVector, "Brcb", line);
    if (params.dstBlkStride == 0) Fail(ASCENDC_HOST_VALUE, "dstBlkStride 0 is undefined");
    const T* from = Elements(vector, src, "src", Use::kRead, size_t{repeatTime} * 8);
    vector.CountRepeats(repeatTime);
    for (uint32_t i = 0; i < repeatTime * 8u; ++i) {
        size_t block = size_t{i / 8} * params.dstRepStride + size_t{i % 8} * params.dstBlkStride;
        uint8_t* to = TouchLocal(vector, Handles::Of(dst), "dst", Use::kWrite, kBlock, kBlock, block * kBlock);
        CheckOverlap(to, kBlock, from, size_t{repeatTime} * 8 * sizeof(T));
        std::fill_n(reinterpret_cast<T*>(to), kBlock / sizeof(T), from[i]);
    }
}

// Inside the unified buffer, with a mask and strides.
template <typename T, bool isSetMask = true, typename Mask>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, Mask mask, uint8_t repeatTime,
          const CopyRepeatParams& params, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float>,
                  "Copy: dtype not in the documented table");
    static_assert(isSetMask, "Copy: masks set outside the call are not modelled");
    Instruction vector(kVector, "Copy", line);
    RunLanes(vector, dst, src, LanesOf<T>(mask), repeatTime, {params.dstStride, params.dstRepeatSize},
             {params.srcStride, params.srcRepeatSize}, [](T x) { return x; });
}

// firstValue, firstValue + 1, ...
template <typename T>
void CreateVecIndex(LocalTensor<T> dst, const ascendc_host::Same<T>& firstValue, uint32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, int16_t, half, int32_t, float>, "CreateVecIndex: dtype not in the documented table");
    Instruction vector(kVector, "CreateVecIndex", line);
    T* to = Elements(vector, dst, "dst", Use::kWrite, count);
    const T first = firstValue;
    for (uint32_t i = 0; i < count; ++i) to[i] = static_cast<T>(first + static_cast<T>(i));
}

// firstValue, firstValue + diffValue, ...
template <typename T>
void ArithProgression(const LocalTensor<T>& dst, const T firstValue, const T diffValue, const int32_t count,
                      ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, int16_t, half, int32_t, float>, "ArithProgression: dtype not in the documented table");
    Instruction vector(kVector, "ArithProgression", line);
    size_t elements = CheckCount(count);
    T* to = Elements(vector, dst, "dst", Use::kWrite, elements);
    for (size_t i = 0; i < elements; ++i) to[i] = static_cast<T>(firstValue + diffValue * static_cast<T>(i));
}

// dst[i] = the element srcBaseAddr + srcOffset[i] bytes into src.
template <typename T>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& srcOffset,
            const uint32_t srcBaseAddr, const uint32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kOneOf<T, int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float>,
                  "Gather: dtype not in the documented table");
    Instruction vector(kVector, "Gather", line);
    const uint32_t* offsets = Elements(vector, srcOffset, "srcOffset", Use::kRead, count);
    const LocalHandle& source = Handles::Of(src);
    const uint8_t* base = TouchLocal(vector, source, "src", Use::kReadWrite, 0);
    T* to = Elements(vector, dst, "dst", Use::kWrite, count);
    CheckOverlap(to, count * sizeof(T), offsets, count * sizeof(uint32_t));
    const void* output = to;
    if (count != 0 && output < base + source.bytes && base < reinterpret_cast<uint8_t*>(to + count)) {
        Fail(ASCENDC_HOST_OVERLAP, "dst and src share memory, which Gather does not support");
    }
    for (uint32_t i = 0; i < count; ++i) {
        uint64_t offset = uint64_t{srcBaseAddr} + offsets[i];
        if (offset % sizeof(T) != 0) {
            Fail(ASCENDC_HOST_ALIGNMENT, "element %u is at byte %llu of src, which is not a multiple of %zu", i,
                 static_cast<unsigned long long>(offset), sizeof(T));
        }
        if (offset + sizeof(T) > source.bytes) {
            Fail(ASCENDC_HOST_UB_BOUNDS, "element %u is at byte %llu of src, which ends after %u bytes", i,
                 static_cast<unsigned long long>(offset), source.bytes);
        }
        if (vector.core.shadow) TouchLocal(vector, source, "src", Use::kRead, sizeof(T), kBlock, offset);
        std::memcpy(static_cast<void*>(to + i), base + offset, sizeof(T));
    }
}

}  // namespace AscendC
