// Who touched which bytes last. Only with checks=1: every access is compared with the order of the pipes, so a race is
// found although instructions run one after another here and the numbers come out right.
#pragma once

#include <vector>

#include "checks.h"
#include "order.h"

namespace ascendc_host {

constexpr uint32_t kBlock = 32;                  // bytes of a UB block, the unit of vector strides
constexpr uint32_t kBufferBytes = 192 * 1024;    // unified buffer of one dav-2201 core
constexpr uint32_t kReservedBytes = 8 * 1024;    // its top belongs to Select and other instructions

// Unified buffer: per 32-byte block, the last writer and the last reader of each pipe, with the bytes concerned.
class BufferShadow {
public:
    BufferShadow() : blocks_(kBufferBytes / kBlock) {}

    void Forget(uint32_t begin, uint32_t bytes) {
        ForEach(begin, begin + bytes, [](Entry& entry, uint32_t mask, uint32_t) { entry.written &= ~mask; });
    }

    void Read(Order& order, Pipe pipe, uint32_t number, uint32_t begin, uint32_t end) {
        uint32_t written = 0;
        bool complete = true;
        ForEach(begin, end, [&](Entry& entry, uint32_t mask, uint32_t at) {
            if (entry.write.mask & mask) Check(order, pipe, entry.write, at, "reads", "is still writing");
            Merge(entry.reads[pipe], pipe, number, mask);
            written |= entry.written & mask;
            complete = complete && (entry.written & mask) == mask;
        });
        // Vector instructions may run over a padded tail whose results nobody uses; copies and scalars may not.
        if (begin < end && (pipe == kVector ? written == 0 : !complete)) {
            Fail(ASCENDC_HOST_UNINITIALISED,
                 "reads bytes [%u, %u) of the unified buffer, %s; fill them first (DataCopyPad, Duplicate)", begin, end,
                 written ? "some of which nothing has written" : "which nothing has written");
        }
    }

    void Write(Order& order, Pipe pipe, uint32_t number, uint32_t begin, uint32_t end) {
        ForEach(begin, end, [&](Entry& entry, uint32_t mask, uint32_t at) {
            if (entry.write.mask & mask) Check(order, pipe, entry.write, at, "writes", "is still writing");
            for (Stamp& read : entry.reads) {
                if ((read.mask & mask) && read.pipe != pipe) Check(order, pipe, read, at, "writes", "is still reading");
                read.mask &= ~mask;
            }
            Merge(entry.write, pipe, number, mask);
            entry.written |= mask;
        });
    }

private:
    struct Stamp {
        uint32_t number = 0;
        uint32_t mask = 0;
        uint16_t line = 0;
        Pipe pipe = kScalar;
    };
    struct Entry {
        Stamp write;
        Stamp reads[kPipes];
        uint32_t written = 0;
    };

    template <typename Visit>
    void ForEach(uint32_t begin, uint32_t end, Visit visit) {
        for (uint32_t at = begin; at < end;) {
            uint32_t block = at / kBlock, stop = std::min(end, (block + 1) * kBlock), first = at % kBlock;
            uint32_t length = stop - at;
            uint32_t mask = length == kBlock ? ~0u : ((1u << length) - 1) << first;
            visit(blocks_[block], mask, at);
            at = stop;
        }
    }

    static void Merge(Stamp& stamp, Pipe pipe, uint32_t number, uint32_t mask) {
        uint32_t before = stamp.pipe == pipe ? stamp.mask : 0;
        stamp = {number, before | mask, static_cast<uint16_t>(Here().line), pipe};
    }

    static void Check(Order& order, Pipe pipe, const Stamp& stamp, uint32_t at, const char* verb, const char* state) {
        if (pipe == kVector && stamp.pipe == kVector) return;
        if (pipe == kScalar || stamp.pipe == kScalar) {
            order.WaitForInstruction(pipe, stamp.pipe, stamp.number);
            return;
        }
        if (order.Finished(pipe, stamp.pipe, stamp.number)) return;
        if (pipe == stamp.pipe) {
            Fail(ASCENDC_HOST_RACE,
                 "race: %s %s byte %u of the unified buffer, which its own transfer of line %u %s; "
                 "PipeBarrier<PIPE_%s> orders overlapping transfers",
                 PipeName(pipe), verb, at, stamp.line, state, PipeName(pipe));
        }
        Fail(ASCENDC_HOST_RACE,
             "race: %s %s byte %u of the unified buffer, which %s (line %u) %s; order them with a queue or with "
             "SetFlag/WaitFlag<HardEvent::%s_%s>",
             PipeName(pipe), verb, at, PipeName(stamp.pipe), stamp.line, state, PipeName(stamp.pipe), PipeName(pipe));
    }

    std::vector<Entry> blocks_;
};

// Global memory: the accesses of one core between two SyncAll, neighbouring ones merged.
class GlobalShadow {
public:
    struct Access {
        uintptr_t begin, end;
        uint32_t number;
        uint32_t block, epoch;
        uint16_t line;
        Pipe pipe;
        bool write, atomic;
    };

    void Note(Order& order, Pipe pipe, uint32_t number, const void* address, size_t bytes, bool write, bool atomic,
              uint32_t epoch) {
        uintptr_t begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
        Access* neighbour = nullptr;
        for (Access& other : accesses_) {
            if (other.begin < end && begin < other.end) Check(order, pipe, other, begin, write, atomic);
            bool same = other.pipe == pipe && other.write == write && other.atomic == atomic && other.epoch == epoch;
            if (same && other.begin <= end && begin <= other.end) neighbour = &other;
        }
        const Position& here = Here();
        if (neighbour) {
            neighbour->begin = std::min(neighbour->begin, begin);
            neighbour->end = std::max(neighbour->end, end);
            neighbour->number = number;
        } else {
            accesses_.push_back(
                {begin, end, number, here.block, epoch, static_cast<uint16_t>(here.line), pipe, write, atomic});
        }
    }

    const std::vector<Access>& Accesses() const { return accesses_; }

private:
    static void Check(Order& order, Pipe pipe, const Access& other, uintptr_t begin, bool write, bool atomic) {
        if ((!write && !other.write) || (atomic && other.atomic)) return;
        if (pipe == kScalar && other.pipe == kScalar) return;
        if (pipe == other.pipe && !(write && other.write)) return;
        if (order.Finished(pipe, other.pipe, other.number)) return;
        uintptr_t at = std::max(begin, other.begin);
        Fail(ASCENDC_HOST_RACE,
             "race: %s %s global memory at %#zx, which %s (line %u) is still %s; order them with "
             "SetFlag/WaitFlag or PipeBarrier",
             PipeName(pipe), write ? "writes" : "reads", static_cast<size_t>(at), PipeName(other.pipe), other.line,
             other.write ? "writing" : "reading");
    }

    std::vector<Access> accesses_;
};

}  // namespace ascendc_host
