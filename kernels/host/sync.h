// SetFlag, WaitFlag, PipeBarrier, SyncAll, block index, data cache.
#pragma once

#include "blocks.h"
#include "pipe.h"

namespace ascendc_host {

inline Flag& FlagOf(Core& core, AscendC::HardEvent event, int32_t id) {
    if (id < 0 || id >= static_cast<int32_t>(kEventIds)) {
        Fail(ASCENDC_HOST_VALUE, "event id %d is outside 0..%u", id, kEventIds - 1);
    }
    return core.flags[static_cast<uint32_t>(event)][id];
}

// A flag that a queue holds between EnQue and DeQue, or FreeTensor and AllocTensor, cannot be used by hand.
inline bool HeldByQueue(const Core& core, AscendC::HardEvent event, int32_t id) {
    for (const Buffer& buffer : core.buffers) {
        if (buffer.queue < 0 || buffer.event != id) continue;
        const Queue& queue = core.queues[static_cast<size_t>(buffer.queue)];
        if (event == (buffer.state == BufferState::kQueued ? queue.filled : queue.emptied)) return true;
    }
    return false;
}

}  // namespace ascendc_host

namespace AscendC {

template <HardEvent event>
void SetFlag(int32_t eventID, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    Core& core = Enter("SetFlag", line);
    Flag& flag = FlagOf(core, event, eventID);
    if (flag.set) {
        Fail(ASCENDC_HOST_FLAG, "flag %s %d is set already (line %d); WaitFlag is missing", EventName(event), eventID,
             flag.line);
    }
    if (HeldByQueue(core, event, eventID)) {
        Fail(ASCENDC_HOST_FLAG, "event id %d of %s is held by a queue; get one from FetchEventID or AllocEventID",
             eventID, EventName(event));
    }
    flag.set = true;
    flag.line = line.number;
    flag.clock = core.order.After(PipesOf(event).first);
}

template <HardEvent event>
void WaitFlag(int32_t eventID, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    Core& core = Enter("WaitFlag", line);
    Flag& flag = FlagOf(core, event, eventID);
    if (!flag.set) {
        Fail(ASCENDC_HOST_FLAG, "flag %s %d is never set before, the device would hang here; SetFlag is missing",
             EventName(event), eventID);
    }
    flag.set = false;
    core.order.Wait(PipesOf(event).second, flag.clock);
}

template <pipe_t pipe>
void PipeBarrier(ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    static_assert(pipe == PIPE_V || pipe == PIPE_MTE2 || pipe == PIPE_MTE3 || pipe == PIPE_ALL,
                  "PipeBarrier of a vector kernel takes PIPE_V, PIPE_MTE2, PIPE_MTE3 or PIPE_ALL");
    Core& core = Enter("PipeBarrier", line);
    if constexpr (pipe == PIPE_ALL) core.order.BarrierAll();
    if constexpr (pipe == PIPE_MTE2) core.order.Barrier(kCopyIn);
    if constexpr (pipe == PIPE_MTE3) core.order.Barrier(kCopyOut);
}

inline int64_t GetBlockIdx() { return ascendc_host::TheCore().block; }
inline int64_t GetBlockNum() { return ascendc_host::TheCore().blocks; }
inline int64_t GetSubBlockNum() { return 1; }

// Every block of the launch reaches this call before any goes on; all pipes of this core have finished by then.
template <bool isAIVOnly = true>
void SyncAll(ASCENDC_HOST_LINE) {
    ascendc_host::Core& core = ascendc_host::Enter("SyncAll", line);
    core.order.BarrierAll();
    ++core.epoch;
    ascendc_host::WaitForBlocks();
    ascendc_host::Enter("SyncAll", line);
}

// The same through global memory; the workspaces hold 32 bytes per block and are zero before the launch.
template <bool isAIVOnly = true>
void SyncAll(const GlobalTensor<int32_t>& gmWorkspace, const LocalTensor<int32_t>& ubWorkspace,
             const int32_t usedCores = 0, ASCENDC_HOST_LINE) {
    using namespace ascendc_host;
    Core& core = Enter("SyncAll", line);
    uint64_t need = uint64_t{core.blocks} * 8;
    if (usedCores != 0 && usedCores != static_cast<int32_t>(core.blocks)) {
        Fail(ASCENDC_HOST_VALUE, "a SyncAll of %d of %u blocks is not modelled", usedCores, core.blocks);
    }
    if (gmWorkspace.GetSize() != 0 && gmWorkspace.GetSize() < need) {
        Fail(ASCENDC_HOST_GM_BOUNDS, "the workspace needs 32 bytes for each of the %u blocks", core.blocks);
    }
    if (ubWorkspace.GetSize() < need) {
        Fail(ASCENDC_HOST_UB_BOUNDS, "the local workspace needs 32 bytes for each of the %u blocks", core.blocks);
    }
    SyncAll<isAIVOnly>(line);
}

// Scalar writes to global memory stay in the core's data cache until they are cleaned.
template <typename T, CacheLine entireType, DcciDst dcciDst = DcciDst::CACHELINE_OUT>
void DataCacheCleanAndInvalid(const GlobalTensor<T>& tensor, ASCENDC_HOST_LINE) {
    ascendc_host::Core& core = ascendc_host::Enter("DataCacheCleanAndInvalid", line);
    if constexpr (entireType == CacheLine::ENTIRE_DATA_CACHE) {
        core.dirty_lines.clear();
    } else {
        uintptr_t cleaned = reinterpret_cast<uintptr_t>(tensor.GetPhyAddr()) / 64;
        auto& lines = core.dirty_lines;
        lines.erase(std::remove(lines.begin(), lines.end(), cleaned), lines.end());
    }
}

}  // namespace AscendC
