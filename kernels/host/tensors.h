// GlobalTensor and LocalTensor, and the checks every access to them goes through.
#pragma once

#include "core.h"

namespace AscendC {
template <typename T>
class LocalTensor;
template <typename T>
class GlobalTensor;
}  // namespace AscendC

namespace ascendc_host {

enum class Use : uint8_t { kRead, kWrite, kReadWrite };

struct LocalHandle {
    int buffer = -1;
    uint32_t generation = 0;
    uint32_t address = 0;  // in the unified buffer
    uint32_t bytes = 0;    // left from address
};

inline void CheckAlive(Core& core, const LocalHandle& handle, const char* operand) {
    if (handle.buffer < 0) {
        Fail(ASCENDC_HOST_UNALLOCATED, "%s has no memory; get it from AllocTensor, DeQue or TBuf::Get", operand);
    }
    const Buffer& buffer = core.buffers[static_cast<size_t>(handle.buffer)];
    if (buffer.generation != handle.generation || buffer.state == BufferState::kFree) {
        Fail(ASCENDC_HOST_UNALLOCATED, "%s was freed (FreeTensor) before this call", operand);
    }
    if (buffer.state == BufferState::kQueued) {
        Fail(ASCENDC_HOST_UNALLOCATED, "%s is in a queue (EnQue in line %d) and may only be used after DeQue", operand,
             buffer.line);
    }
}

// Checks `bytes` bytes at `offset` of an operand and returns their address. Zero bytes are never touched.
inline uint8_t* TouchLocal(const Instruction& instruction, const LocalHandle& handle, const char* operand, Use use,
                           size_t bytes, uint32_t alignment = kBlock, size_t offset = 0) {
    Core& core = instruction.core;
    CheckAlive(core, handle, operand);
    if (handle.address % alignment != 0) {
        Fail(ASCENDC_HOST_ALIGNMENT, "%s starts at byte %u of the unified buffer, which is not a multiple of %u",
             operand, handle.address, alignment);
    }
    if (offset + bytes > handle.bytes) {
        Fail(ASCENDC_HOST_UB_BOUNDS, "%s is %s up to byte %zu, but its tensor ends after %u bytes", operand,
             use == Use::kRead ? "read" : "written", offset + bytes, handle.bytes);
    }
    uint32_t begin = handle.address + static_cast<uint32_t>(offset);
    if (core.shadow && bytes != 0) {
        uint32_t end = begin + static_cast<uint32_t>(bytes);
        if (use != Use::kWrite) core.shadow->Read(core.order, instruction.pipe, instruction.number, begin, end);
        if (use != Use::kRead) core.shadow->Write(core.order, instruction.pipe, instruction.number, begin, end);
    }
    return core.memory + begin;
}

// Where bytes of global memory are counted.
inline uint64_t& Count(ascendc_host_counters& counters, Pipe pipe) {
    return pipe == kCopyIn ? counters.copied_in : pipe == kCopyOut ? counters.copied_out : counters.scalar;
}

struct Handles;  // the one friend of the tensors

}  // namespace ascendc_host

namespace AscendC {

template <typename T>
class LocalTensor {
public:
    using PrimType = T;

    LocalTensor operator[](uint32_t offset) const {
        LocalTensor tensor = *this;
        uint32_t bytes = std::min<uint64_t>(uint64_t{offset} * sizeof(T), handle_.bytes);
        tensor.handle_.address += offset * static_cast<uint32_t>(sizeof(T));
        tensor.handle_.bytes -= bytes;
        return tensor;
    }

    T GetValue(uint32_t index, ASCENDC_HOST_LINE) const {
        using namespace ascendc_host;
        Instruction scalar(kScalar, "GetValue", line);
        T value;
        const uint8_t* from =
            TouchLocal(scalar, handle_, "tensor", Use::kRead, sizeof(T), sizeof(T), size_t{index} * sizeof(T));
        std::memcpy(&value, from, sizeof(T));
        return value;
    }

    template <typename U>
    void SetValue(uint32_t index, U value, ASCENDC_HOST_LINE) const {
        using namespace ascendc_host;
        Instruction scalar(kScalar, "SetValue", line);
        T converted = static_cast<T>(value);
        uint8_t* to =
            TouchLocal(scalar, handle_, "tensor", Use::kWrite, sizeof(T), sizeof(T), size_t{index} * sizeof(T));
        std::memcpy(to, &converted, sizeof(T));
    }

    T operator()(uint32_t index, ASCENDC_HOST_LINE) const { return GetValue(index, line); }

    template <typename U>
    LocalTensor<U> ReinterpretCast() const {
        LocalTensor<U> tensor;
        tensor.handle_ = handle_;
        return tensor;
    }

    uint32_t GetSize() const { return handle_.bytes / static_cast<uint32_t>(sizeof(T)); }

private:
    template <typename>
    friend class LocalTensor;
    friend struct ascendc_host::Handles;
    ascendc_host::LocalHandle handle_;
};

template <typename T>
class GlobalTensor {
public:
    using PrimType = T;

    // Without a size, only the device allocation bounds the accesses.
    void SetGlobalBuffer(__gm__ T* buffer, uint64_t elements) {
        address_ = buffer;
        elements_ = elements;
        bounded_ = true;
    }
    void SetGlobalBuffer(__gm__ T* buffer) {
        address_ = buffer;
        bounded_ = false;
    }

    GlobalTensor operator[](uint64_t offset) const {
        GlobalTensor tensor = *this;
        tensor.address_ += offset;
        tensor.elements_ -= std::min(offset, elements_);
        return tensor;
    }

    T GetValue(uint64_t index, ASCENDC_HOST_LINE) const {
        using namespace ascendc_host;
        Instruction scalar(kScalar, "GlobalTensor::GetValue", line);
        const uint8_t* from = Touch(scalar, index * sizeof(T), sizeof(T), sizeof(T), false);
        T value;
        std::memcpy(&value, from, sizeof(T));
        return value;
    }

    // Goes through the scalar data cache: DataCacheCleanAndInvalid must follow.
    void SetValue(uint64_t index, T value, ASCENDC_HOST_LINE) const {
        using namespace ascendc_host;
        Instruction scalar(kScalar, "GlobalTensor::SetValue", line);
        uint8_t* to = Touch(scalar, index * sizeof(T), sizeof(T), sizeof(T), true);
        std::memcpy(to, &value, sizeof(T));
        scalar.core.dirty_lines.push_back(reinterpret_cast<uintptr_t>(to) / 64);
    }

    __gm__ T* GetPhyAddr(uint64_t offset = 0) const { return address_ + offset; }
    uint64_t GetSize() const { return elements_; }

private:
    friend struct ascendc_host::Handles;

    // The check behind every access.
    uint8_t* Touch(const ascendc_host::Instruction& instruction, uint64_t offset, uint64_t bytes, uint32_t alignment,
                   bool write) const {
        using namespace ascendc_host;
        if (address_ == nullptr) Fail(ASCENDC_HOST_GM_BOUNDS, "GlobalTensor has no address; call SetGlobalBuffer first");
        uint8_t* begin = reinterpret_cast<uint8_t*>(address_) + offset;
        if (reinterpret_cast<uintptr_t>(begin) % alignment != 0) {
            Fail(ASCENDC_HOST_ALIGNMENT, "global address %p is not a multiple of %u bytes", static_cast<void*>(begin),
                 alignment);
        }
        if (bounded_ && offset + bytes > elements_ * sizeof(T)) {
            Fail(ASCENDC_HOST_GM_BOUNDS, "%s byte %zu of a GlobalTensor with %zu bytes left",
                 write ? "writes up to" : "reads up to", static_cast<size_t>(offset + bytes),
                 static_cast<size_t>(elements_ * sizeof(T)));
        }
        TouchGlobal(instruction, begin, bytes, write);
        if (__builtin_expect(instruction.core.counters != nullptr, 0)) Count(*instruction.core.counters, instruction.pipe) += bytes;
        return begin;
    }

    __gm__ T* address_ = nullptr;
    uint64_t elements_ = 0;
    bool bounded_ = false;
};

}  // namespace AscendC

namespace ascendc_host {

struct Handles {
    template <typename T>
    static LocalHandle& Of(AscendC::LocalTensor<T>& tensor) {
        return tensor.handle_;
    }
    template <typename T>
    static const LocalHandle& Of(const AscendC::LocalTensor<T>& tensor) {
        return tensor.handle_;
    }
    template <typename T>
    static uint8_t* Touch(const AscendC::GlobalTensor<T>& tensor, const Instruction& instruction, uint64_t offset,
                          uint64_t bytes, uint32_t alignment, bool write) {
        return tensor.Touch(instruction, offset, bytes, alignment, write);
    }
};

// `count` elements of a vector instruction's operand, checked.
template <typename T>
T* Elements(const Instruction& instruction, const AscendC::LocalTensor<T>& tensor, const char* operand, Use use,
            size_t count, uint32_t alignment = kBlock) {
    instruction.CountRepeats((count * sizeof(T) + kRepeatBytes - 1) / kRepeatBytes);
    return reinterpret_cast<T*>(
        TouchLocal(instruction, Handles::Of(tensor), operand, use, count * sizeof(T), alignment));
}

}  // namespace ascendc_host
