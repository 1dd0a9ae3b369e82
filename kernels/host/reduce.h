// Reductions. Sums inside a repeat are binary trees, as documented; sums over repeats run in order.
#pragma once

#include "arithmetic.h"

namespace ascendc_host {

using AscendC::ReduceOrder;

template <typename T>
constexpr bool kReducible = kOneOf<T, half, float>;

// Pairwise sum of up to a repeat of elements; absent lanes count as zero.
template <typename T>
T TreeSum(T* values, uint32_t lanes) {
    for (; lanes > 1; lanes /= 2) {
        for (uint32_t i = 0; i < lanes / 2; ++i) values[i] = static_cast<T>(values[2 * i] + values[2 * i + 1]);
    }
    return values[0];
}

// An index is stored as bits of the element type.
template <typename T>
T IndexBits(uint32_t index) {
    using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
    Bits bits = static_cast<Bits>(index);
    T value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

struct Largest {
    template <typename T>
    static bool Better(T a, T b) { return a > b; }
};
struct Smallest {
    template <typename T>
    static bool Better(T a, T b) { return a < b; }
};

// The first extreme of `count` elements.
template <typename Order, typename T>
std::pair<T, uint32_t> Extreme(const T* values, uint32_t count) {
    // Several running extremes, so that the loop vectorises.
    constexpr uint32_t kWays = 64 / sizeof(T);
    T best[kWays];
    std::fill(best, best + kWays, values[0]);
    uint32_t whole = count / kWays * kWays;
    for (uint32_t first = 0; first < whole; first += kWays) {
        for (uint32_t i = 0; i < kWays; ++i) {
            T value = values[first + i];
            best[i] = Order::Better(value, best[i]) ? value : best[i];
        }
    }
    for (uint32_t i = whole; i < count; ++i) best[0] = Order::Better(values[i], best[0]) ? values[i] : best[0];
    for (T value : best) best[0] = Order::Better(value, best[0]) ? value : best[0];
    uint32_t index = 0;
    while (index + 1 < count && !(values[index] == best[0])) ++index;
    return {best[0], index};
}

inline uint32_t CeilDivide(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

// Elements of sharedTmpBuffer that ReduceMax and ReduceMin need, by the formula of their documentation.
template <typename T>
uint32_t WorkElements(uint32_t repeats, bool index) {
    constexpr uint32_t per_block = kBlock / sizeof(T), per_repeat = kRepeatBytes / sizeof(T);
    uint32_t first = repeats * 2, aligned = CeilDivide(first, per_block) * per_block;
    if (!index) return aligned;
    uint32_t second = CeilDivide(first, per_repeat) * 2, need = aligned + CeilDivide(second, per_block) * per_block;
    if (second > 2) need += CeilDivide(CeilDivide(second, per_repeat) * 2, per_block) * per_block;
    return need;
}

template <typename Order, typename T>
void ReduceExtreme(const Instruction& vector, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
                   const AscendC::LocalTensor<T>& work, int32_t elements, bool with_index) {
    static_assert(kReducible<T>, "ReduceMax, ReduceMin: dtype not in the documented table");
    size_t count = CheckCount(elements);
    if (count == 0) return;
    constexpr uint32_t per_repeat = kRepeatBytes / sizeof(T);
    if (sizeof(T) == 2 && with_index && count > 65536) {
        Fail(ASCENDC_HOST_LENGTH, "an index in half goes up to 65535; reduce %zu elements in parts", count);
    }
    const T* from = Elements(vector, src, "src", Use::kRead, count);
    auto [value, index] = Extreme<Order>(from, static_cast<uint32_t>(count));
    uint32_t repeats = std::max<uint32_t>(1, static_cast<uint32_t>(count) / per_repeat);
    // The work space is overwritten, and may be the source itself.
    T* scratch = Elements(vector, work, "sharedTmpBuffer", Use::kWrite, WorkElements<T>(repeats, with_index));
    std::memset(static_cast<void*>(scratch), 0xA5, WorkElements<T>(repeats, with_index) * sizeof(T));
    T* to = Elements(vector, dst, "dst", Use::kWrite, with_index ? 2 : 1, with_index ? 2 * sizeof(T) : sizeof(T));
    to[0] = value;
    if (with_index) to[1] = IndexBits<T>(index);
}

// Reduces every repeat to one result; `store` writes result `repeat` of the active lanes.
template <typename T, typename Store>
void ForEachRepeat(const Instruction& vector, const AscendC::LocalTensor<T>& src, const Lanes& mask, int32_t repeats,
                   int32_t block_stride, int32_t repeat_stride, Store store) {
    static_assert(kReducible<T>, "reductions of repeats: dtype not in the documented table");
    CheckRepeats(repeats);
    constexpr uint32_t lanes = kRepeatBytes / sizeof(T);
    Strides from{static_cast<uint32_t>(block_stride), static_cast<uint32_t>(repeat_stride)};
    const T* input = TouchLanes(vector, src, "src", Use::kRead, mask, lanes, static_cast<uint32_t>(repeats), from);
    std::vector<T> values(size_t{lanes} * static_cast<size_t>(repeats), T(0));
    for (uint32_t repeat = 0; repeat < static_cast<uint32_t>(repeats); ++repeat) {
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (mask[lane]) values[repeat * lanes + lane] = *At(input, from, repeat, lane);
        }
    }
    for (uint32_t repeat = 0; repeat < static_cast<uint32_t>(repeats); ++repeat) store(repeat, &values[repeat * lanes]);
}

template <typename T>
T* Result(const Instruction& vector, const AscendC::LocalTensor<T>& dst, size_t first, size_t count,
          uint32_t alignment) {
    uint8_t* to = TouchLocal(vector, Handles::Of(dst), "dst", Use::kWrite, count * sizeof(T), alignment, first * sizeof(T));
    return reinterpret_cast<T*>(to);
}

template <typename Order, typename T>
void ExtremeOfRepeats(const Instruction& vector, const AscendC::LocalTensor<T>& dst,
                      const AscendC::LocalTensor<T>& src, const Lanes& mask, int32_t repeats, int32_t dst_stride,
                      int32_t block_stride, int32_t repeat_stride, ReduceOrder order) {
    constexpr uint32_t lanes = kRepeatBytes / sizeof(T);
    ForEachRepeat(vector, src, mask, repeats, block_stride, repeat_stride, [&](uint32_t repeat, T* values) {
        bool any = false;
        T best{};
        uint32_t index = 0;
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (!mask[lane] || (any && !Order::Better(values[lane], best))) continue;
            best = values[lane];
            index = lane;
            any = true;
        }
        if (!any) return;
        size_t step = size_t{repeat} * static_cast<size_t>(dst_stride);
        if (order == ReduceOrder::ORDER_ONLY_VALUE) {
            *Result(vector, dst, step, 1, sizeof(T)) = best;
        } else if (order == ReduceOrder::ORDER_ONLY_INDEX) {
            size_t unit = sizeof(uint32_t) / sizeof(T);
            std::memcpy(static_cast<void*>(Result(vector, dst, step * unit, unit, 4)), &index, sizeof(index));
        } else {
            T* to = Result(vector, dst, step * 2, 2, 2 * sizeof(T));
            bool value_first = order == ReduceOrder::ORDER_VALUE_INDEX;
            to[value_first ? 0 : 1] = best;
            to[value_first ? 1 : 0] = IndexBits<T>(index);
        }
    });
}

template <typename T>
T SumOfActive(T* values, const bool*, uint32_t count) {
    return TreeSum(values, count);
}

template <typename Order, typename T>
T ExtremeOfActive(const T* values, const bool* active, uint32_t count) {
    T best{};
    bool any = false;
    for (uint32_t i = 0; i < count; ++i) {
        if (!active[i] || (any && !Order::Better(values[i], best))) continue;
        best = values[i];
        any = true;
    }
    return best;
}

template <typename T, typename Combine>
void BlocksOfRepeats(const Instruction& vector, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
                     const Lanes& mask, int32_t repeats, int32_t dst_stride, int32_t block_stride,
                     int32_t repeat_stride, Combine combine) {
    constexpr uint32_t per_block = kBlock / sizeof(T), blocks = kRepeatBytes / kBlock;
    ForEachRepeat(vector, src, mask, repeats, block_stride, repeat_stride, [&](uint32_t repeat, T* values) {
        for (uint32_t block = 0; block < blocks; ++block) {
            bool active[per_block], any = false;
            for (uint32_t i = 0; i < per_block; ++i) any |= active[i] = mask[block * per_block + i];
            if (!any) continue;
            size_t at = (size_t{repeat} * static_cast<size_t>(dst_stride)) * blocks + block;
            *Result(vector, dst, at, 1, 8 * sizeof(T)) = combine(values + block * per_block, active, per_block);
        }
    });
}

}  // namespace ascendc_host

namespace AscendC {

// dst[0] is the extreme, dst[1] its first index as bits if asked for.
template <typename T>
void ReduceMax(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& sharedTmpBuffer,
               const int32_t count, bool calIndex = false, ASCENDC_HOST_LINE) {
    ascendc_host::Instruction vector(ascendc_host::kVector, "ReduceMax", line);
    ascendc_host::ReduceExtreme<ascendc_host::Largest>(vector, dst, src, sharedTmpBuffer, count, calIndex);
}
template <typename T>
void ReduceMin(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& sharedTmpBuffer,
               const int32_t count, bool calIndex = false, ASCENDC_HOST_LINE) {
    ascendc_host::Instruction vector(ascendc_host::kVector, "ReduceMin", line);
    ascendc_host::ReduceExtreme<ascendc_host::Smallest>(vector, dst, src, sharedTmpBuffer, count, calIndex);
}

// The work space is not used on dav-2201, but must be a tensor.
template <typename T, bool isSetMask = true>
void ReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& sharedTmpBuffer,
               const int32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kReducible<T>, "ReduceSum: dtype not in the documented table");
    static_assert(isSetMask, "ReduceSum: masks set outside the call are not modelled");
    Instruction vector(kVector, "ReduceSum", line);
    size_t elements = CheckCount(count);
    if (elements == 0) return;
    CheckAlive(vector.core, Handles::Of(sharedTmpBuffer), "sharedTmpBuffer");
    const T* from = Elements(vector, src, "src", Use::kRead, elements);
    constexpr uint32_t lanes = kRepeatBytes / sizeof(T);
    T sum = T(0);
    for (size_t first = 0; first < elements; first += lanes) {
        T values[lanes] = {};
        std::memcpy(static_cast<void*>(values), from + first, std::min<size_t>(lanes, elements - first) * sizeof(T));
        sum = static_cast<T>(sum + TreeSum(values, lanes));
    }
    *Elements(vector, dst, "dst", Use::kWrite, 1, sizeof(T)) = sum;
}

// One sum per repeat; dstRepStride in elements.
template <typename T, bool isSetMask = true, typename MaskT>
void WholeReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const MaskT mask, const int32_t repeatTime,
                    const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,
                    ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(isSetMask, "WholeReduceSum: masks set outside the call are not modelled");
    Instruction vector(kVector, "WholeReduceSum", line);
    ForEachRepeat(vector, src, LanesOf<T>(mask), repeatTime, srcBlkStride, srcRepStride,
                  [&](uint32_t repeat, T* values) {
                      T* to = Result(vector, dst, size_t{repeat} * size_t(dstRepStride), 1, sizeof(T));
                      *to = TreeSum(values, kRepeatBytes / sizeof(T));
                  });
}

// One result per 32-byte block with an active lane, eight per repeat; dstRepStride in results of a repeat.
#define ASCENDC_HOST_BLOCKS_OF(Name, combine)                                                                        \
    template <typename T, bool isSetMask = true, typename Mask>                                                      \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeatTime, const Mask mask,       \
              const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,                    \
              ASCENDC_HOST_LINE) {                                                                                   \
        static_assert(isSetMask, #Name ": masks set outside the call are not modelled");                             \
        ascendc_host::Instruction vector(ascendc_host::kVector, #Name, line);                                        \
        ascendc_host::BlocksOfRepeats(vector, dst, src, ascendc_host::LanesOf<T>(mask), repeatTime, dstRepStride,    \
                                      srcBlkStride, srcRepStride, [](auto* v, const auto* on, uint32_t n) {          \
                                          return ascendc_host::combine(v, on, n);                                    \
                                      });                                                                            \
    }
ASCENDC_HOST_BLOCKS_OF(BlockReduceSum, SumOfActive)
ASCENDC_HOST_BLOCKS_OF(BlockReduceMax, ExtremeOfActive<ascendc_host::Largest>)
ASCENDC_HOST_BLOCKS_OF(BlockReduceMin, ExtremeOfActive<ascendc_host::Smallest>)
#undef ASCENDC_HOST_BLOCKS_OF

// Sums of neighbours, half a repeat of results; dstRepStride in half repeats (128 bytes).
template <typename T, bool isSetMask = true, typename Mask>
void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeatTime, const Mask mask,
                   const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,
                   ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(isSetMask, "PairReduceSum: masks set outside the call are not modelled");
    Instruction vector(kVector, "PairReduceSum", line);
    constexpr uint32_t pairs = kRepeatBytes / sizeof(T) / 2;
    Lanes lanes = LanesOf<T>(mask);
    ForEachRepeat(vector, src, lanes, repeatTime, srcBlkStride, srcRepStride, [&](uint32_t repeat, T* values) {
        for (uint32_t pair = 0; pair < pairs; ++pair) {
            if (!lanes[2 * pair] && !lanes[2 * pair + 1]) continue;
            size_t at = size_t{repeat} * size_t(dstRepStride) * pairs + pair;
            *Result(vector, dst, at, 1, kBlock) = static_cast<T>(values[2 * pair] + values[2 * pair + 1]);
        }
    });
}

#define ASCENDC_HOST_WHOLE(Name, Order)                                                                              \
    template <typename T, bool isSetMask = true, typename MaskT>                                                     \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const MaskT mask, const int32_t repeatTime,      \
              const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,                    \
              ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX, ASCENDC_HOST_LINE) {                               \
        static_assert(isSetMask, #Name ": masks set outside the call are not modelled");                             \
        ascendc_host::Instruction vector(ascendc_host::kVector, #Name, line);                                        \
        ascendc_host::ExtremeOfRepeats<ascendc_host::Order>(vector, dst, src, ascendc_host::LanesOf<T>(mask),        \
                                                            repeatTime, dstRepStride, srcBlkStride, srcRepStride,    \
                                                            order);                                                  \
    }
ASCENDC_HOST_WHOLE(WholeReduceMax, Largest)
ASCENDC_HOST_WHOLE(WholeReduceMin, Smallest)
#undef ASCENDC_HOST_WHOLE

}  // namespace AscendC
