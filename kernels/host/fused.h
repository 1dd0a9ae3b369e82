// Instructions that multiply and add in one step. The sources may be half while the destination is float.
#pragma once

#include "arithmetic.h"

namespace ascendc_host {

template <typename T, typename U>
constexpr bool kFusable = (std::is_same_v<T, U> && kOneOf<T, half, float>) ||
                          (std::is_same_v<T, float> && std::is_same_v<U, half>);

}  // namespace ascendc_host

namespace AscendC {

// dst += src * scalar
template <typename T, typename U>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const ascendc_host::Same<U>& scalarValue,
          const int32_t& count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kFusable<T, U>, "Axpy: dtypes not in the documented table");
    Instruction vector(kVector, "Axpy", line);
    size_t elements = CheckCount(count);
    const U* from = Elements(vector, src, "src", Use::kRead, elements);
    T* to = Elements(vector, dst, "dst", Use::kReadWrite, elements);
    CheckOverlap(to, elements * sizeof(T), from, elements * sizeof(U));
    const T scalar = static_cast<T>(scalarValue);
    ASCENDC_HOST_VECTORISE
    for (size_t i = 0; i < elements; ++i) to[i] = static_cast<T>(to[i] + static_cast<T>(from[i]) * scalar);
}

// dst += src0 * src1
template <typename T, typename U>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, const int32_t& count,
               ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kFusable<T, U>, "MulAddDst: dtypes not in the documented table");
    Instruction vector(kVector, "MulAddDst", line);
    size_t elements = CheckCount(count);
    const U* left = Elements(vector, src0, "src0", Use::kRead, elements);
    const U* right = Elements(vector, src1, "src1", Use::kRead, elements);
    T* to = Elements(vector, dst, "dst", Use::kReadWrite, elements);
    CheckOverlap(to, elements * sizeof(T), left, elements * sizeof(U));
    CheckOverlap(to, elements * sizeof(T), right, elements * sizeof(U));
    ASCENDC_HOST_VECTORISE
    for (size_t i = 0; i < elements; ++i) {
        to[i] = static_cast<T>(to[i] + static_cast<T>(left[i]) * static_cast<T>(right[i]));
    }
}

template <typename T, typename U, bool isSetMask = true, typename Mask>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, Mask mask,
               uint8_t repeatTime, const BinaryRepeatParams& params, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kFusable<T, U>, "MulAddDst: dtypes not in the documented table");
    static_assert(isSetMask, "MulAddDst: masks set outside the call are not modelled");
    Instruction vector(kVector, "MulAddDst", line);
    constexpr uint32_t lanes = kRepeatBytes / sizeof(T);
    Lanes active = LanesOf<T>(mask);
    Strides to{params.dstBlkStride, params.dstRepStride}, from0{params.src0BlkStride, params.src0RepStride},
        from1{params.src1BlkStride, params.src1RepStride};
    const U* left = TouchLanes(vector, src0, "src0", Use::kRead, active, lanes, repeatTime, from0);
    const U* right = TouchLanes(vector, src1, "src1", Use::kRead, active, lanes, repeatTime, from1);
    T* output = TouchLanes(vector, dst, "dst", Use::kReadWrite, active, lanes, repeatTime, to);
    for (uint32_t repeat = 0; repeat < repeatTime; ++repeat) {
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (!active[lane]) continue;
            T& result = *At(output, to, repeat, lane);
            T product = static_cast<T>(*At(left, from0, repeat, lane)) * static_cast<T>(*At(right, from1, repeat, lane));
            result = static_cast<T>(result + product);
        }
    }
}

}  // namespace AscendC
