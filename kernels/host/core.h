// One vector core: its unified buffer, the buffers handed out from it, its flags, mask and atomic state.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

#include "races.h"

namespace ascendc_host {

constexpr uint32_t kEvents = static_cast<uint32_t>(AscendC::HardEvent::MAX);
constexpr uint32_t kEventIds = 8;
constexpr uint32_t kRepeatBytes = 256;  // of one vector instruction
constexpr uint8_t kPoison = 0xA5;  // 0xA5A5A5A5 is a large negative int32 and a tiny negative float

enum class BufferState : uint8_t { kFree, kOwned, kQueued };

struct Buffer {
    uint32_t begin = 0, bytes = 0;
    int queue = -1;  // -1: a TBuf, which is never free
    BufferState state = BufferState::kOwned;
    uint32_t generation = 0;
    int line = 0;           // of the last AllocTensor or EnQue
    int8_t event = -1;      // id that EnQue or FreeTensor holds until DeQue or AllocTensor
    Clock ready{};          // what the next owner waits for
};

struct Queue {
    int first = 0, count = 0, cursor = 0;
    uint32_t depth = 1;
    AscendC::HardEvent filled{}, emptied{};
    std::vector<int> waiting;  // enqueued buffers, oldest first
};

struct Flag {
    bool set = false, allocated = false;
    int line = 0;
    Clock clock{};
};

enum class Atomic : uint8_t { kNone, kAdd, kMax, kMin };

struct Core {
    alignas(64) uint8_t memory[kBufferBytes];
    uint32_t used = 0;
    void* pipe = nullptr;  // the kernel's TPipe
    std::vector<Buffer> buffers;
    std::vector<Queue> queues;
    Flag flags[kEvents][kEventIds];
    Order order;
    Atomic atomic = Atomic::kNone;
    int atomic_type = 0;
    half deq_scale = static_cast<half>(1.0f);
    std::unique_ptr<BufferShadow> shadow;    // null with checks=0
    std::unique_ptr<GlobalShadow> global;
    std::vector<uintptr_t> dirty_lines;      // of the scalar data cache
    const ascendc_host_environment* environment = nullptr;
    ascendc_host_counters* counters = nullptr;
    decltype(ascendc_host_environment::access) access = nullptr;
    uint32_t block = 0, blocks = 1, epoch = 0;
    const uint8_t* allocation = nullptr;     // the device allocation found last
    size_t allocation_bytes = 0;

    void Start(uint32_t index, uint32_t count, const ascendc_host_environment* env, bool poison) {
        used = 0;
        pipe = nullptr;
        buffers.clear();
        queues.clear();
        for (auto& ids : flags) std::fill(std::begin(ids), std::end(ids), Flag{});
        order = Order{};
        atomic = Atomic::kNone;
        deq_scale = static_cast<half>(1.0f);
        dirty_lines.clear();
        block = index;
        blocks = count;
        epoch = 0;
        environment = env;
        bool counts = env != nullptr && env->size >= offsetof(ascendc_host_environment, access);
        counters = counts ? env->counters : nullptr;
        access = env != nullptr && env->size >= sizeof(ascendc_host_environment) ? env->access : nullptr;
        allocation = nullptr;
        bool races = env != nullptr && env->checks != 0;
        shadow = races ? std::make_unique<BufferShadow>() : nullptr;
        global = races ? std::make_unique<GlobalShadow>() : nullptr;
        if (poison) std::memset(memory, kPoison, sizeof(memory));
    }
};

inline Core*& CurrentCore() {
    static thread_local Core* core = nullptr;
    return core;
}

inline Core& TheCore() { return *CurrentCore(); }

// One instruction of a pipe: remembers where the kernel is and numbers the instruction.
struct Instruction {
    Instruction(Pipe on, const char* api, Line line) : core(TheCore()), pipe(on) {
        Position& here = Here();
        here.api = api;
        here.line = line.number;
        number = core.order.Issue(on);
    }

    // An operand takes this many repeats of 256 bytes. The widest one counts.
    void CountRepeats(size_t repeats) const {
        if (__builtin_expect(core.counters != nullptr, 0)) Count(repeats);
    }
    [[gnu::cold, gnu::noinline]] void Count(size_t repeats) const {
        if (repeats <= counted) return;
        core.counters->vector_instructions += repeats - counted;
        counted = repeats;
    }

    Core& core;
    Pipe pipe;
    uint32_t number;
    mutable size_t counted = 0;
};

// A call that is not an instruction of a pipe.
inline Core& Enter(const char* api, Line line) {
    Position& here = Here();
    here.api = api;
    here.line = line.number;
    return TheCore();
}

// Takes an event id as AllocEventID and the queues do.
inline int8_t TakeEvent(Core& core, AscendC::HardEvent event) {
    Flag(&ids)[kEventIds] = core.flags[static_cast<uint32_t>(event)];
    for (uint32_t id = 0; id < kEventIds; ++id) {
        if (ids[id].allocated) continue;
        if (ids[id].set) {
            Fail(ASCENDC_HOST_FLAG,
                 "event id %u of %s is set (line %d) without having been allocated, and a queue needs it now; "
                 "use AllocEventID or put WaitFlag before this call",
                 id, EventName(event), ids[id].line);
        }
        ids[id].allocated = true;
        return static_cast<int8_t>(id);
    }
    Fail(ASCENDC_HOST_FLAG, "all %u event ids of %s are taken; use fewer buffers per position or ReleaseEventID",
         kEventIds, EventName(event));
}

inline void DropEvent(Core& core, AscendC::HardEvent event, int8_t id) {
    if (id >= 0) core.flags[static_cast<uint32_t>(event)][id].allocated = false;
}

// Global memory: inside a device allocation, and in order with the other pipes.
inline void TouchGlobal(const Instruction& instruction, const void* address, size_t bytes, bool write) {
    Core& core = instruction.core;
    const uint8_t* begin = static_cast<const uint8_t*>(address);
    const ascendc_host_environment* env = core.environment;
    if (env != nullptr && env->allocation != nullptr) {
        if (core.allocation == nullptr || begin < core.allocation ||
            begin + bytes > core.allocation + core.allocation_bytes) {
            const void* found = nullptr;
            size_t size = 0;
            if (!env->allocation(env->context, address, &found, &size)) {
                Fail(ASCENDC_HOST_GM_BOUNDS, "%s %zu bytes at %p, which is not device memory",
                     write ? "writes" : "reads", bytes, address);
            }
            core.allocation = static_cast<const uint8_t*>(found);
            core.allocation_bytes = size;
            size_t offset = static_cast<size_t>(begin - core.allocation);
            if (offset + bytes > size) {
                Fail(ASCENDC_HOST_GM_BOUNDS, "%s bytes [%zu, %zu) of a device allocation of %zu bytes",
                     write ? "writes" : "reads", offset, offset + bytes, size);
            }
        }
    }
    if (__builtin_expect(core.access != nullptr, 0)) core.access(env->context, address, bytes, write);
    if (core.global) {
        bool atomic = write && core.atomic != Atomic::kNone && instruction.pipe == kCopyOut;
        core.global->Note(core.order, instruction.pipe, instruction.number, address, bytes, write, atomic, core.epoch);
    }
}

}  // namespace ascendc_host
