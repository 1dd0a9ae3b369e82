// The order of the pipes. Instructions run here one after another, on the device the pipes S, V, MTE2 and MTE3 run
// side by side; this class keeps what each pipe may rely on having finished, as one vector clock per pipe.
//
// Rules, from the documentation of intra-core synchronisation for dav-2201:
// - V is in order with itself; S is in order and issues everything, so whatever S has waited for precedes every later
//   instruction of every pipe.
// - MTE2 and MTE3 do not order their own overlapping transfers; PipeBarrier does.
// - Queues and SetFlag/WaitFlag order one pipe after another.
// - S against the others is ordered by the compiler (--cce-auto-sync, on by default for directly launched kernels).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "types.h"

namespace ascendc_host {

enum Pipe : uint8_t { kScalar, kVector, kCopyIn, kCopyOut, kPipes };

inline const char* PipeName(Pipe pipe) {
    constexpr const char* names[] = {"S", "V", "MTE2", "MTE3"};
    return names[pipe];
}

using Clock = std::array<uint32_t, kPipes>;

class Order {
public:
    // Starts the next instruction of `pipe` and returns its number.
    uint32_t Issue(Pipe pipe) {
        uint32_t number = ++issued_[pipe];
        if (pipe == kVector) known_[kVector][kVector] = number;
        if (pipe == kScalar) {
            for (Clock& known : known_) known[kScalar] = number;
        }
        return number;
    }

    // Whether `pipe` may rely on instruction `number` of `other` being finished.
    bool Finished(Pipe pipe, Pipe other, uint32_t number) const { return known_[pipe][other] >= number; }

    // What is finished once everything issued on `pipe` so far is: the content of a flag.
    Clock After(Pipe pipe) const {
        Clock clock = known_[pipe];
        clock[pipe] = issued_[pipe];
        return clock;
    }

    void Wait(Pipe pipe, const Clock& clock) {
        Join(known_[pipe], clock);
        if (pipe == kScalar) {
            for (Clock& known : known_) Join(known, known_[kScalar]);
        }
    }

    void WaitForInstruction(Pipe pipe, Pipe other, uint32_t number) {
        Clock clock{};
        clock[other] = number;
        Wait(pipe, clock);
    }

    void Barrier(Pipe pipe) { known_[pipe][pipe] = issued_[pipe]; }

    void BarrierAll() {
        for (Clock& known : known_) known = issued_;
    }

private:
    static void Join(Clock& into, const Clock& from) {
        for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], from[i]);
    }

    Clock issued_{};
    std::array<Clock, kPipes> known_{};
};

// Source and destination pipe of an event.
constexpr std::pair<Pipe, Pipe> PipesOf(AscendC::HardEvent event) {
    using AscendC::HardEvent;
    switch (event) {
        case HardEvent::V_MTE2: return {kVector, kCopyIn};
        case HardEvent::MTE2_V: return {kCopyIn, kVector};
        case HardEvent::V_MTE3: return {kVector, kCopyOut};
        case HardEvent::MTE3_V: return {kCopyOut, kVector};
        case HardEvent::MTE2_MTE3: return {kCopyIn, kCopyOut};
        case HardEvent::MTE3_MTE2: return {kCopyOut, kCopyIn};
        case HardEvent::S_V: return {kScalar, kVector};
        case HardEvent::V_S: return {kVector, kScalar};
        case HardEvent::S_MTE2: return {kScalar, kCopyIn};
        case HardEvent::MTE2_S: return {kCopyIn, kScalar};
        case HardEvent::S_MTE3: return {kScalar, kCopyOut};
        case HardEvent::MTE3_S: return {kCopyOut, kScalar};
        default: return {kScalar, kScalar};
    }
}

constexpr const char* EventName(AscendC::HardEvent event) {
    constexpr const char* names[] = {"V_MTE2", "MTE2_V", "V_MTE3", "MTE3_V", "MTE2_MTE3", "MTE3_MTE2",
                                     "S_V",    "V_S",    "S_MTE2", "MTE2_S", "S_MTE3",    "MTE3_S"};
    return names[static_cast<size_t>(event)];
}

}  // namespace ascendc_host
