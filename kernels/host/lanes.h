// How a vector instruction walks over its operands: `count` consecutive elements, or repeats of 256 bytes with a mask
// and strides in 32-byte blocks.
#pragma once

#include <cmath>

#include "tensors.h"

// The loops below run over operands that are either the same memory or disjoint (CheckOverlap), so the compiler may
// vectorise them without looking for dependences.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed"  // not every operation can be vectorised; that is no mistake
#define ASCENDC_HOST_VECTORISE _Pragma("clang loop vectorize(assume_safety)")
#else
#define ASCENDC_HOST_VECTORISE _Pragma("GCC ivdep")
#endif

namespace ascendc_host {

// Partial overlap of source and destination is undefined on the device.
inline void CheckOverlap(const void* dst, size_t dst_bytes, const void* src, size_t src_bytes) {
    uintptr_t d = reinterpret_cast<uintptr_t>(dst), s = reinterpret_cast<uintptr_t>(src);
    if (d != s && d < s + src_bytes && s < d + dst_bytes) {
        Fail(ASCENDC_HOST_OVERLAP, "dst and src overlap in part; they must be the same tensor or disjoint");
    }
}

// A mask as the level-0 interfaces take it: a number of lanes, or two words of bits.
struct Lanes {
    uint64_t bits[2];
    static Lanes First(uint64_t count, uint32_t lanes) {
        if (count > lanes) {
            Fail(ASCENDC_HOST_LENGTH, "mask %llu exceeds the %u elements of a repeat",
                 static_cast<unsigned long long>(count), lanes);
        }
        auto word = [](uint64_t n) { return n >= 64 ? ~0ull : (1ull << n) - 1; };
        return {{word(count), count > 64 ? word(count - 64) : 0}};
    }
    static Lanes Bits(const uint64_t mask[], uint32_t lanes) { return {{mask[0], lanes > 64 ? mask[1] : 0}}; }
    bool operator[](uint32_t lane) const { return (bits[lane / 64] >> (lane % 64)) & 1; }
};

template <typename T>
Lanes LanesOf(const uint64_t* bits) {
    return Lanes::Bits(bits, kRepeatBytes / sizeof(T));
}
template <typename T, typename Count, std::enable_if_t<std::is_integral_v<Count>, bool> = true>
Lanes LanesOf(Count count) {
    return Lanes::First(static_cast<uint64_t>(count), kRepeatBytes / sizeof(T));
}

// One operand of a level-0 instruction.
struct Strides {
    uint32_t block, repeat;  // in 32-byte blocks
};

template <typename T>
size_t LaneOffset(const Strides& strides, uint32_t repeat, uint32_t lane) {
    constexpr uint32_t per_block = kBlock / sizeof(T);
    return (size_t{repeat} * strides.repeat + size_t{lane / per_block} * strides.block) * kBlock +
           (lane % per_block) * sizeof(T);
}

// Checks what the active lanes of all repeats touch, one contiguous run of lanes within a block at a time.
template <typename T>
T* TouchLanes(const Instruction& instruction, const AscendC::LocalTensor<T>& tensor, const char* operand, Use use,
              const Lanes& mask, uint32_t lanes, uint32_t repeats, const Strides& strides) {
    const LocalHandle& handle = Handles::Of(tensor);
    uint8_t* base = TouchLocal(instruction, handle, operand, use, 0);
    instruction.CountRepeats(repeats);
    constexpr uint32_t per_block = kBlock / sizeof(T);
    for (uint32_t repeat = 0; repeat < repeats; ++repeat) {
        for (uint32_t first = 0; first < lanes; first += per_block) {
            uint32_t begin = first, end = std::min(first + per_block, lanes);
            while (begin < end && !mask[begin]) ++begin;
            while (end > begin && !mask[end - 1]) --end;
            if (begin == end) continue;
            TouchLocal(instruction, handle, operand, use, (end - begin) * sizeof(T), kBlock,
                       LaneOffset<T>(strides, repeat, begin));
        }
    }
    return reinterpret_cast<T*>(base);
}

template <typename T>
T* At(T* base, const Strides& strides, uint32_t repeat, uint32_t lane) {
    using Byte = std::conditional_t<std::is_const_v<T>, const uint8_t, uint8_t>;
    return reinterpret_cast<T*>(reinterpret_cast<Byte*>(base) +
                                LaneOffset<std::remove_const_t<T>>(strides, repeat, lane));
}

inline void CheckRepeats(int32_t repeats) {
    if (repeats < 0 || repeats > 255) Fail(ASCENDC_HOST_LENGTH, "repeat count %d is outside 0..255", repeats);
}

// dst = operation(src) over masked repeats. A whole repeat is read before it is written.
template <typename D, typename S, typename Operation>
void RunLanes(const Instruction& vector, const AscendC::LocalTensor<D>& dst, const AscendC::LocalTensor<S>& src,
              const Lanes& mask, uint32_t repeats, const Strides& to, const Strides& from, Operation operation) {
    constexpr uint32_t lanes = kRepeatBytes / std::max(sizeof(D), sizeof(S));
    const S* input = TouchLanes(vector, src, "src", Use::kRead, mask, lanes, repeats, from);
    D* output = TouchLanes(vector, dst, "dst", Use::kWrite, mask, lanes, repeats, to);
    for (uint32_t repeat = 0; repeat < repeats; ++repeat) {
        D results[lanes];
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (mask[lane]) results[lane] = operation(*At(input, from, repeat, lane));
        }
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (mask[lane]) *At(output, to, repeat, lane) = results[lane];
        }
    }
}

template <typename T, typename Operation>
void RunLanes(const Instruction& vector, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src0,
              const AscendC::LocalTensor<T>& src1, const Lanes& mask, uint32_t repeats,
              const AscendC::BinaryRepeatParams& params, Operation operation) {
    constexpr uint32_t lanes = kRepeatBytes / sizeof(T);
    Strides to{params.dstBlkStride, params.dstRepStride}, from0{params.src0BlkStride, params.src0RepStride},
        from1{params.src1BlkStride, params.src1RepStride};
    const T* left = TouchLanes(vector, src0, "src0", Use::kRead, mask, lanes, repeats, from0);
    const T* right = TouchLanes(vector, src1, "src1", Use::kRead, mask, lanes, repeats, from1);
    T* output = TouchLanes(vector, dst, "dst", Use::kWrite, mask, lanes, repeats, to);
    for (uint32_t repeat = 0; repeat < repeats; ++repeat) {
        T results[lanes];
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (mask[lane]) results[lane] = operation(*At(left, from0, repeat, lane), *At(right, from1, repeat, lane));
        }
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (mask[lane]) *At(output, to, repeat, lane) = results[lane];
        }
    }
}

inline size_t CheckCount(int64_t count) {
    if (count < 0) Fail(ASCENDC_HOST_LENGTH, "count %lld is negative", static_cast<long long>(count));
    return static_cast<size_t>(count);
}

}  // namespace ascendc_host
