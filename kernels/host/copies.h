// DataCopy and DataCopyPad between global memory and the unified buffer, and atomic writes.
#pragma once

#include "arithmetic.h"

namespace ascendc_host {

template <typename T>
constexpr bool kCopyable = kOneOf<T, int8_t, uint8_t, int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float,
                                  int64_t, uint64_t, double>;

template <typename T>
constexpr int kTypeNumber = std::is_same_v<T, float> ? 1 : std::is_same_v<T, half> ? 2 : std::is_same_v<T, int16_t> ? 3
    : std::is_same_v<T, int32_t> ? 4 : std::is_same_v<T, int8_t> ? 5 : std::is_same_v<T, bfloat16_t> ? 6 : 0;

template <typename T>
T Combine(Atomic operation, T old, T value) {
    if constexpr (std::is_same_v<T, bfloat16_t>) {
        return Narrow<bfloat16_t>(Combine(operation, Widen(old), Widen(value)), AscendC::RoundMode::CAST_RINT);
    } else {
        if (operation == Atomic::kMax) return value > old ? value : old;
        if (operation == Atomic::kMin) return value < old ? value : old;
        return static_cast<T>(old + value);
    }
}

// One run of bytes from the unified buffer to global memory, with the atomic operation that is switched on.
template <typename T>
void StoreRun(Core& core, uint8_t* to, const uint8_t* from, size_t bytes) {
    if (core.atomic == Atomic::kNone) {
        std::memcpy(to, from, bytes);
        return;
    }
    if (core.atomic_type != kTypeNumber<T>) {
        Fail(ASCENDC_HOST_VALUE, "an atomic operation of another type is switched on; SetAtomicNone ends it");
    }
    if constexpr (kTypeNumber<T> != 0) {
        for (size_t at = 0; at < bytes; at += sizeof(T)) {
            T old, value;
            std::memcpy(&old, to + at, sizeof(T));
            std::memcpy(&value, from + at, sizeof(T));
            value = Combine(core.atomic, old, value);
            std::memcpy(to + at, &value, sizeof(T));
        }
    }
}

// The documentation lets a copy of an odd length move less than asked for; that is never what a kernel wants.
inline void CheckWhole(size_t bytes) {
    if (bytes % kBlock != 0) {
        Fail(ASCENDC_HOST_LENGTH, "copies %zu bytes, which is not a multiple of 32; DataCopyPad copies any length", bytes);
    }
}

// The rows of a strided copy, in bytes.
struct Rows {
    size_t count, length, global_step, local_step, local_length;
};

inline void CheckRows(uint32_t count, uint32_t length, size_t element) {
    if (count > 4095) Fail(ASCENDC_HOST_VALUE, "blockCount %u is outside 0..4095", count);
    if (length > 2097151) Fail(ASCENDC_HOST_VALUE, "blockLen %u is outside 0..2097151", length);
    if (length % element != 0) {
        Fail(ASCENDC_HOST_LENGTH, "blockLen %u is not a multiple of the element size %zu", length, element);
    }
}

template <typename T>
void LoadRows(const Instruction& copy, const AscendC::LocalTensor<T>& dst, const AscendC::GlobalTensor<T>& src,
              const Rows& rows, uint32_t alignment, const AscendC::DataCopyPadExtParams<T>& pad) {
    const LocalHandle& handle = Handles::Of(dst);
    TouchLocal(copy, handle, "dst", Use::kReadWrite, 0);
    for (size_t row = 0; row < rows.count; ++row) {
        uint8_t* to = TouchLocal(copy, handle, "dst", Use::kWrite, rows.local_length, kBlock, row * rows.local_step);
        const uint8_t* from = Handles::Touch(src, copy, row * rows.global_step, rows.length, alignment, false);
        size_t left = pad.leftPadding, padded = left + rows.length / sizeof(T), all = rows.local_length / sizeof(T);
        std::memcpy(to + left * sizeof(T), from, rows.length);
        if (left == 0 && padded == all) continue;
        // Without paddingValue the documentation promises the row's first element, and nothing next to paddings.
        T fill = pad.paddingValue;
        if (!pad.isPad) {
            std::memcpy(&fill, from, sizeof(T));
            if (left != 0 || pad.rightPadding != 0) std::memset(static_cast<void*>(&fill), kPoison, sizeof(T));
        }
        for (size_t i = 0; i < left; ++i) std::memcpy(to + i * sizeof(T), &fill, sizeof(T));
        for (size_t i = padded; i < all; ++i) std::memcpy(to + i * sizeof(T), &fill, sizeof(T));
    }
}

template <typename T>
void StoreRows(const Instruction& copy, const AscendC::GlobalTensor<T>& dst, const AscendC::LocalTensor<T>& src,
               const Rows& rows, uint32_t alignment) {
    const LocalHandle& handle = Handles::Of(src);
    for (size_t row = 0; row < rows.count; ++row) {
        const uint8_t* from = TouchLocal(copy, handle, "src", Use::kRead, rows.length, kBlock, row * rows.local_step);
        uint8_t* to = Handles::Touch(dst, copy, row * rows.global_step, rows.length, alignment, true);
        StoreRun<T>(copy.core, to, from, rows.length);
    }
}

inline size_t RoundUp(size_t bytes) { return (bytes + kBlock - 1) / kBlock * kBlock; }

}  // namespace ascendc_host

namespace AscendC {

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kCopyable<T>, "DataCopy: dtype not in the documented table");
    Instruction copy(kCopyIn, "DataCopy", line);
    size_t length = size_t{params.blockLen} * kBlock;
    if (params.blockCount == 0 || length == 0) return;
    Rows rows{params.blockCount, length, length + size_t{params.srcStride} * kBlock,
              length + size_t{params.dstStride} * kBlock, length};
    LoadRows(copy, dst, src, rows, sizeof(T), {});
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kCopyable<T>, "DataCopy: dtype not in the documented table");
    Instruction copy(kCopyOut, "DataCopy", line);
    size_t length = size_t{params.blockLen} * kBlock;
    if (params.blockCount == 0 || length == 0) return;
    Rows rows{params.blockCount, length, length + size_t{params.dstStride} * kBlock,
              length + size_t{params.srcStride} * kBlock, length};
    StoreRows(copy, dst, src, rows, sizeof(T));
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kCopyable<T>, "DataCopy: dtype not in the documented table");
    Instruction copy(kCopyIn, "DataCopy", line);
    size_t bytes = size_t{count} * sizeof(T);
    CheckWhole(bytes);
    if (bytes != 0) LoadRows(copy, dst, src, Rows{1, bytes, 0, 0, bytes}, sizeof(T), {});
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kCopyable<T>, "DataCopy: dtype not in the documented table");
    Instruction copy(kCopyOut, "DataCopy", line);
    size_t bytes = size_t{count} * sizeof(T);
    CheckWhole(bytes);
    if (bytes != 0) StoreRows(copy, dst, src, Rows{1, bytes, 0, 0, bytes}, sizeof(T));
}

// Inside the unified buffer: an instruction of the vector pipe.
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint32_t count, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kCopyable<T>, "DataCopy: dtype not in the documented table");
    Instruction copy(kVector, "DataCopy", line);
    CheckWhole(size_t{count} * sizeof(T));
    const T* from = Elements(copy, src, "src", Use::kRead, count);
    T* to = Elements(copy, dst, "dst", Use::kWrite, count);
    std::memmove(to, from, size_t{count} * sizeof(T));
}

template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& params,
                 const DataCopyPadExtParams<T>& pad, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kCopyable<T>, "DataCopyPad: dtype not in the documented table");
    Instruction copy(kCopyIn, "DataCopyPad", line);
    CheckRows(params.blockCount, params.blockLen, sizeof(T));
    if (params.blockCount == 0 || params.blockLen == 0) return;
    if (pad.leftPadding * sizeof(T) > kBlock || pad.rightPadding * sizeof(T) > kBlock) {
        Fail(ASCENDC_HOST_VALUE, "leftPadding and rightPadding may take 32 bytes each at most");
    }
    if constexpr (sizeof(T) == 8) {
        if (pad.isPad && !(pad.paddingValue == T{})) Fail(ASCENDC_HOST_VALUE, "64-bit types can be padded with 0 only");
    }
    size_t local = RoundUp(params.blockLen + (size_t{pad.leftPadding} + pad.rightPadding) * sizeof(T));
    Rows rows{params.blockCount, params.blockLen, size_t{params.blockLen} + params.srcStride,
              local + size_t{params.dstStride} * kBlock, local};
    LoadRows(copy, dst, src, rows, 1, pad);
}

template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& params,
                 ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(kCopyable<T>, "DataCopyPad: dtype not in the documented table");
    Instruction copy(kCopyOut, "DataCopyPad", line);
    CheckRows(params.blockCount, params.blockLen, sizeof(T));
    if (params.blockCount == 0 || params.blockLen == 0) return;
    Rows rows{params.blockCount, params.blockLen, size_t{params.blockLen} + params.dstStride,
              RoundUp(params.blockLen) + size_t{params.srcStride} * kBlock, params.blockLen};
    StoreRows(copy, dst, src, rows, 1);
}

template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params,
                 const DataCopyPadParams& pad, ASCENDC_HOST_LINE) {
    T value{};
    std::memcpy(&value, &pad.paddingValue, sizeof(T));
    DataCopyPad(dst, src, DataCopyExtParams{params.blockCount, params.blockLen, params.srcStride, params.dstStride, 0},
                DataCopyPadExtParams<T>{pad.isPad, pad.leftPadding, pad.rightPadding, value}, line);
}

template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params,
                 ASCENDC_HOST_LINE) {
    DataCopyPad(dst, src, DataCopyExtParams{params.blockCount, params.blockLen, params.srcStride, params.dstStride, 0},
                line);
}

// Copies to global memory from here on add to, or keep the extreme of, what is there.
template <typename T>
void SetAtomicAdd() {
    static_assert(ascendc_host::kTypeNumber<T> != 0, "SetAtomicAdd: dtype not in the documented table");
    ascendc_host::TheCore().atomic = ascendc_host::Atomic::kAdd;
    ascendc_host::TheCore().atomic_type = ascendc_host::kTypeNumber<T>;
}
template <typename T>
void SetAtomicMax() {
    static_assert(ascendc_host::kTypeNumber<T> != 0, "SetAtomicMax: dtype not in the documented table");
    static_assert(!std::is_same_v<T, float>, "SetAtomicMax: float is not in the documented table");
    ascendc_host::TheCore().atomic = ascendc_host::Atomic::kMax;
    ascendc_host::TheCore().atomic_type = ascendc_host::kTypeNumber<T>;
}
template <typename T>
void SetAtomicMin() {
    static_assert(ascendc_host::kTypeNumber<T> != 0, "SetAtomicMin: dtype not in the documented table");
    static_assert(!std::is_same_v<T, float>, "SetAtomicMin: float is not in the documented table");
    ascendc_host::TheCore().atomic = ascendc_host::Atomic::kMin;
    ascendc_host::TheCore().atomic_type = ascendc_host::kTypeNumber<T>;
}
inline void SetAtomicNone() { ascendc_host::TheCore().atomic = ascendc_host::Atomic::kNone; }

}  // namespace AscendC
