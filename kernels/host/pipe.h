// TPipe, TQue, TQueBind and TBuf: memory of the unified buffer, and the order between the pipes that queues give.
#pragma once

#include "tensors.h"

namespace ascendc_host {

// Events that a queue from `source` to `destination` sets in EnQue and in FreeTensor.
constexpr std::pair<AscendC::HardEvent, AscendC::HardEvent> QueueEvents(AscendC::TPosition source,
                                                                        AscendC::TPosition destination) {
    using AscendC::HardEvent;
    using AscendC::TPosition;
    if (source == TPosition::GM && destination == TPosition::VECIN) return {HardEvent::MTE2_V, HardEvent::V_MTE2};
    if (source == TPosition::VECOUT && destination == TPosition::GM) return {HardEvent::V_MTE3, HardEvent::MTE3_V};
    if (source == TPosition::VECIN && destination == TPosition::VECOUT) {
        return {HardEvent::MTE2_MTE3, HardEvent::MTE3_MTE2};
    }
    return {HardEvent::MAX, HardEvent::MAX};
}

inline uint32_t Reserve(Core& core, uint32_t bytes) {
    uint64_t rounded = (uint64_t{bytes} + kBlock - 1) / kBlock * kBlock;
    if (core.used + rounded > kBufferBytes - kReservedBytes) {
        Fail(ASCENDC_HOST_CAPACITY,
             "needs %llu bytes more than the %u already taken, and a core has %u (192 KB, of which 8 KB are reserved "
             "for instructions); use smaller tiles",
             static_cast<unsigned long long>(rounded), core.used, kBufferBytes - kReservedBytes);
    }
    uint32_t begin = core.used;
    core.used += static_cast<uint32_t>(rounded);
    return begin;
}

inline int AddBuffer(Core& core, uint32_t bytes, int queue, BufferState state) {
    Buffer buffer;
    buffer.begin = Reserve(core, bytes);
    buffer.bytes = core.used - buffer.begin;
    buffer.queue = queue;
    buffer.state = state;
    core.buffers.push_back(buffer);
    return static_cast<int>(core.buffers.size()) - 1;
}

// The scalar unit issues AllocTensor and the others; none of them is an instruction of its own.
inline int Allocate(Core& core, int index) {
    if (index < 0) Fail(ASCENDC_HOST_QUEUE, "the queue has no buffers; call TPipe::InitBuffer first");
    Queue& queue = core.queues[static_cast<size_t>(index)];
    for (int tried = 0; tried < queue.count; ++tried) {
        // Round robin like the device, so that two buffers are really used in turn.
        int candidate = queue.first + queue.cursor;
        queue.cursor = (queue.cursor + 1) % queue.count;
        Buffer& buffer = core.buffers[static_cast<size_t>(candidate)];
        if (buffer.state != BufferState::kFree) continue;
        buffer.state = BufferState::kOwned;
        buffer.line = Here().line;
        ++buffer.generation;
        DropEvent(core, queue.emptied, buffer.event);
        buffer.event = -1;
        core.order.Wait(PipesOf(queue.emptied).second, buffer.ready);
        if (core.shadow) {
            core.shadow->Forget(buffer.begin, buffer.bytes);
            std::memset(core.memory + buffer.begin, kPoison, buffer.bytes);
        }
        return candidate;
    }
    const Buffer& held = core.buffers[static_cast<size_t>(queue.first)];
    Fail(ASCENDC_HOST_QUEUE,
         "none of the queue's %d buffers is free (the first was taken or enqueued in line %d), the device would hang "
         "here; FreeTensor is missing or InitBuffer needs more buffers",
         queue.count, held.line);
}

// The buffer behind a whole tensor of this queue.
inline Buffer& QueueBuffer(Core& core, int index, const LocalHandle& handle) {
    CheckAlive(core, handle, "tensor");
    Buffer& buffer = core.buffers[static_cast<size_t>(handle.buffer)];
    if (index < 0 || buffer.queue != index) {
        Fail(ASCENDC_HOST_QUEUE, "the tensor does not belong to this queue (allocated in line %d)", buffer.line);
    }
    return buffer;
}

inline void Enqueue(Core& core, int index, const LocalHandle& handle) {
    Buffer& buffer = QueueBuffer(core, index, handle);
    Queue& queue = core.queues[static_cast<size_t>(index)];
    if (queue.waiting.size() >= queue.depth) {
        Fail(ASCENDC_HOST_QUEUE, "the queue of depth %u is full (EnQue in line %d without DeQue); DeQue first",
             queue.depth, core.buffers[static_cast<size_t>(queue.waiting.front())].line);
    }
    buffer.state = BufferState::kQueued;
    buffer.line = Here().line;
    buffer.event = TakeEvent(core, queue.filled);
    buffer.ready = core.order.After(PipesOf(queue.filled).first);
    queue.waiting.push_back(handle.buffer);
}

inline int Dequeue(Core& core, int index) {
    if (index < 0) Fail(ASCENDC_HOST_QUEUE, "the queue has no buffers; call TPipe::InitBuffer first");
    Queue& queue = core.queues[static_cast<size_t>(index)];
    if (queue.waiting.empty()) {
        Fail(ASCENDC_HOST_QUEUE, "the queue is empty, the device would hang here; EnQue is missing");
    }
    int found = queue.waiting.front();
    queue.waiting.erase(queue.waiting.begin());
    Buffer& buffer = core.buffers[static_cast<size_t>(found)];
    buffer.state = BufferState::kOwned;
    DropEvent(core, queue.filled, buffer.event);
    buffer.event = -1;
    core.order.Wait(PipesOf(queue.filled).second, buffer.ready);
    return found;
}

inline void Release(Core& core, int index, const LocalHandle& handle) {
    Buffer& buffer = QueueBuffer(core, index, handle);
    const Queue& queue = core.queues[static_cast<size_t>(index)];
    buffer.state = BufferState::kFree;
    buffer.event = TakeEvent(core, queue.emptied);
    buffer.ready = core.order.After(PipesOf(queue.emptied).first);
}

// Queues and flags at the end of a kernel: what is left over would hang the device in this kernel or the next.
inline void CheckFinished(Core& core) {
    Here().api = "end of the kernel";
    for (const Buffer& buffer : core.buffers) {
        if (buffer.queue < 0 || buffer.state == BufferState::kFree) continue;
        Here().line = buffer.line;
        if (buffer.state == BufferState::kQueued) {
            Fail(ASCENDC_HOST_QUEUE, "the tensor enqueued in this line is still in its queue; DeQue is missing");
        }
        Fail(ASCENDC_HOST_QUEUE, "the tensor allocated or enqueued in this line was never freed; FreeTensor is missing");
    }
    for (uint32_t event = 0; event < kEvents; ++event) {
        for (uint32_t id = 0; id < kEventIds; ++id) {
            const Flag& flag = core.flags[event][id];
            if (!flag.set) continue;
            Here().line = flag.line;
            Fail(ASCENDC_HOST_FLAG, "SetFlag<HardEvent::%s>(%u) is never waited for; WaitFlag is missing",
                 EventName(static_cast<AscendC::HardEvent>(event)), id);
        }
    }
    if (!core.dirty_lines.empty()) {
        Fail(ASCENDC_HOST_RACE, "scalar writes to global memory are still in the data cache; call "
                                "DataCacheCleanAndInvalid or write through DataCopyPad");
    }
}

}  // namespace ascendc_host

namespace AscendC {

class TPipe;

template <TPosition src, TPosition dst, int32_t depth, auto mask = 0>
class TQueBind {
    static_assert(ascendc_host::QueueEvents(src, dst).first != HardEvent::MAX,
                  "queues of a vector kernel are VECIN, VECOUT and TQueBind<VECIN, VECOUT>");
    static_assert(depth >= 0, "the depth of a queue is not negative");

public:
    template <typename T>
    LocalTensor<T> AllocTensor(ASCENDC_HOST_LINE) {
        ascendc_host::Core& core = ascendc_host::Enter("AllocTensor", line);
        return Tensor<T>(core, ascendc_host::Allocate(core, index_));
    }

    template <typename T>
    bool EnQue(const LocalTensor<T>& tensor, ASCENDC_HOST_LINE) {
        ascendc_host::Core& core = ascendc_host::Enter("EnQue", line);
        ascendc_host::Enqueue(core, index_, ascendc_host::Handles::Of(tensor));
        return true;
    }

    template <typename T>
    LocalTensor<T> DeQue(ASCENDC_HOST_LINE) {
        static_assert(depth > 0, "a queue of depth 0 has only the in-place DeQue(tensor)");
        ascendc_host::Core& core = ascendc_host::Enter("DeQue", line);
        return Tensor<T>(core, ascendc_host::Dequeue(core, index_));
    }

    template <typename T>
    void DeQue(LocalTensor<T>& tensor, ASCENDC_HOST_LINE) {
        static_assert(depth == 0, "the in-place DeQue(tensor) needs a queue of depth 0");
        ascendc_host::Core& core = ascendc_host::Enter("DeQue", line);
        tensor = Tensor<T>(core, ascendc_host::Dequeue(core, index_));
    }

    template <typename T>
    void FreeTensor(const LocalTensor<T>& tensor, ASCENDC_HOST_LINE) {
        ascendc_host::Core& core = ascendc_host::Enter("FreeTensor", line);
        ascendc_host::Release(core, index_, ascendc_host::Handles::Of(tensor));
    }

    bool HasTensorInQue() const { return GetTensorCountInQue() > 0; }
    int32_t GetTensorCountInQue() const {
        return index_ < 0 ? 0 : static_cast<int32_t>(ascendc_host::TheCore().queues[size_t(index_)].waiting.size());
    }
    bool VacantInQue() const { return GetTensorCountInQue() < (depth > 0 ? depth : 1); }
    bool HasIdleBuffer() const {
        const ascendc_host::Core& core = ascendc_host::TheCore();
        for (const ascendc_host::Buffer& buffer : core.buffers) {
            if (buffer.queue == index_ && buffer.state == ascendc_host::BufferState::kFree) return index_ >= 0;
        }
        return false;
    }

private:
    friend class TPipe;

    template <typename T>
    static LocalTensor<T> Tensor(const ascendc_host::Core& core, int buffer) {
        const ascendc_host::Buffer& from = core.buffers[static_cast<size_t>(buffer)];
        LocalTensor<T> tensor;
        ascendc_host::Handles::Of(tensor) = {buffer, from.generation, from.begin, from.bytes};
        return tensor;
    }

    int index_ = -1;
};

template <TPosition position, int32_t depth, auto mask = 0>
class TQue : public TQueBind<position == TPosition::VECIN ? TPosition::GM : position,
                             position == TPosition::VECIN ? TPosition::VECIN : TPosition::GM, depth, mask> {};

template <TPosition position = TPosition::VECCALC>
class TBuf {
public:
    template <typename T>
    LocalTensor<T> Get(ASCENDC_HOST_LINE) {
        return GetBytes<T>("TBuf::Get", 0, bytes_, line);
    }
    template <typename T>
    LocalTensor<T> Get(uint32_t elements, ASCENDC_HOST_LINE) {
        return GetBytes<T>("TBuf::Get", 0, uint64_t{elements} * sizeof(T), line);
    }
    template <typename T>
    LocalTensor<T> GetWithOffset(uint32_t elements, uint32_t offset_bytes, ASCENDC_HOST_LINE) {
        return GetBytes<T>("TBuf::GetWithOffset", offset_bytes, uint64_t{elements} * sizeof(T), line);
    }

private:
    friend class TPipe;

    template <typename T>
    LocalTensor<T> GetBytes(const char* api, uint32_t offset, uint64_t bytes, ascendc_host::Line line) {
        ascendc_host::Core& core = ascendc_host::Enter(api, line);
        if (buffer_ < 0) {
            ascendc_host::Fail(ASCENDC_HOST_UNALLOCATED, "the TBuf has no memory; call TPipe::InitBuffer first");
        }
        if (offset + bytes > bytes_) {
            ascendc_host::Fail(ASCENDC_HOST_UB_BOUNDS, "asks for bytes up to %llu of a TBuf of %u bytes",
                               static_cast<unsigned long long>(offset + bytes), bytes_);
        }
        LocalTensor<T> tensor;
        const ascendc_host::Buffer& from = core.buffers[static_cast<size_t>(buffer_)];
        ascendc_host::Handles::Of(tensor) = {buffer_, from.generation, from.begin + offset,
                                             static_cast<uint32_t>(bytes)};
        return tensor;
    }

    int buffer_ = -1;
    uint32_t bytes_ = 0;
};

class TPipe {
public:
    TPipe() {
        ascendc_host::Core& core = ascendc_host::TheCore();
        if (core.pipe != nullptr) ascendc_host::Fail(ASCENDC_HOST_VALUE, "a kernel has one TPipe; this is the second");
        core.pipe = this;
    }
    ~TPipe() { ascendc_host::TheCore().pipe = nullptr; }
    TPipe(const TPipe&) = delete;
    TPipe& operator=(const TPipe&) = delete;

    // `num` buffers of `len` bytes, each rounded up to 32 bytes.
    template <TPosition src, TPosition dst, int32_t depth, auto mask>
    bool InitBuffer(TQueBind<src, dst, depth, mask>& queue, uint8_t num, uint32_t len, ASCENDC_HOST_LINE) {
        ascendc_host::Core& core = ascendc_host::Enter("InitBuffer", line);
        if (num == 0 || len == 0) ascendc_host::Fail(ASCENDC_HOST_VALUE, "a queue needs at least one buffer of one byte");
        if (queue.index_ >= 0) ascendc_host::Fail(ASCENDC_HOST_VALUE, "the queue has buffers already");
        constexpr auto events = ascendc_host::QueueEvents(src, dst);
        ascendc_host::Queue entry;
        entry.first = static_cast<int>(core.buffers.size());
        entry.count = num;
        entry.depth = depth > 0 ? depth : 1;
        entry.filled = events.first;
        entry.emptied = events.second;
        queue.index_ = static_cast<int>(core.queues.size());
        core.queues.push_back(entry);
        for (int i = 0; i < num; ++i) AddBuffer(core, len, queue.index_, ascendc_host::BufferState::kFree);
        return true;
    }

    template <TPosition position>
    bool InitBuffer(TBuf<position>& buffer, uint32_t len, ASCENDC_HOST_LINE) {
        ascendc_host::Core& core = ascendc_host::Enter("InitBuffer", line);
        if (len == 0) ascendc_host::Fail(ASCENDC_HOST_VALUE, "a TBuf needs at least one byte");
        if (buffer.buffer_ >= 0) ascendc_host::Fail(ASCENDC_HOST_VALUE, "the TBuf has memory already");
        buffer.buffer_ = AddBuffer(core, len, -1, ascendc_host::BufferState::kOwned);
        buffer.bytes_ = core.buffers.back().bytes;
        return true;
    }

    template <HardEvent event>
    TEventID AllocEventID(ASCENDC_HOST_LINE) {
        return ascendc_host::TakeEvent(ascendc_host::Enter("AllocEventID", line), event);
    }
    template <HardEvent event>
    void ReleaseEventID(TEventID id, ASCENDC_HOST_LINE) {
        ascendc_host::Core& core = ascendc_host::Enter("ReleaseEventID", line);
        if (id < 0 || id >= int(ascendc_host::kEventIds) || !core.flags[uint32_t(event)][id].allocated) {
            ascendc_host::Fail(ASCENDC_HOST_FLAG, "event id %d of %s was not allocated", id,
                               ascendc_host::EventName(event));
        }
        ascendc_host::DropEvent(core, event, id);
    }
    // An id that nobody holds now, without taking it: for a SetFlag and WaitFlag right after one another.
    TEventID FetchEventID(HardEvent event, ASCENDC_HOST_LINE) {
        ascendc_host::Core& core = ascendc_host::Enter("FetchEventID", line);
        TEventID id = ascendc_host::TakeEvent(core, event);
        ascendc_host::DropEvent(core, event, id);
        return id;
    }
    template <HardEvent event>
    TEventID FetchEventID(ASCENDC_HOST_LINE) {
        return FetchEventID(event, line);
    }
};

inline TPipe* GetTPipePtr() { return static_cast<TPipe*>(ascendc_host::TheCore().pipe); }

}  // namespace AscendC
