"""What a launch reports of itself: bytes moved and vector instructions, against numbers counted by hand."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

ENTRIES = ("copies", "strided", "scalar_accesses", "lengths", "repeats")
SOURCE = """
#include "kernel_operator.h"
using namespace AscendC;

template <HardEvent event>
__aicore__ inline void Order() {
    SetFlag<event>(EVENT_ID0);
    WaitFlag<event>(EVENT_ID0);
}

// 100 floats in, with padding; 12 bytes out, twice.
extern "C" __global__ __aicore__ void copies(GM_ADDR x, GM_ADDR out) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    GlobalTensor<float> source, target;
    source.SetGlobalBuffer((__gm__ float*)x, 100);
    target.SetGlobalBuffer((__gm__ float*)out + GetBlockIdx() * 6, 6);
    pipe.InitBuffer(buffer, 1024);
    auto t = buffer.Get<float>();
    DataCopyPad(t, source, {1, 400, 0, 0, 0}, {true, 1, 2, 0.0f});
    Order<HardEvent::MTE2_MTE3>();
    DataCopyPad(target, t, {1, 12, 0, 0, 0});
    DataCopyPad(target[3], t, {1, 12, 0, 0, 0});
}

// 4 rows of 64 bytes out of every 128 in, 2 rows of 32 bytes out.
extern "C" __global__ __aicore__ void strided(GM_ADDR x, GM_ADDR out) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    GlobalTensor<float> source, target;
    source.SetGlobalBuffer((__gm__ float*)x, 112);
    target.SetGlobalBuffer((__gm__ float*)out, 24);
    pipe.InitBuffer(buffer, 1024);
    auto t = buffer.Get<float>();
    DataCopyPad(t, source, {4, 64, 64, 0, 0}, {false, 0, 0, 0.0f});
    Order<HardEvent::MTE2_MTE3>();
    DataCopy(target, t, DataCopyParams{2, 1, 0, 1});
}

// 3 reads and 1 write of 4 bytes, 1 read of 8; accesses to the unified buffer are none.
extern "C" __global__ __aicore__ void scalar_accesses(GM_ADDR x, GM_ADDR out) {
    TPipe pipe;
    TBuf<TPosition::VECCALC> buffer;
    GlobalTensor<int32_t> source, target;
    GlobalTensor<int64_t> wide;
    source.SetGlobalBuffer((__gm__ int32_t*)x, 4);
    wide.SetGlobalBuffer((__gm__ int64_t*)x, 2);
    target.SetGlobalBuffer((__gm__ int32_t*)out, 1);
    pipe.InitBuffer(buffer, 64);
    auto t = buffer.Get<int32_t>();
    t.SetValue(0, source.GetValue(0) + source.GetValue(1) + source.GetValue(2));
    target.SetValue(0, t.GetValue(0) + (int32_t)wide.GetValue(1));
    DataCacheCleanAndInvalid<int32_t, CacheLine::SINGLE_CACHE_LINE>(target);
}

// Instructions with a count: what is wider decides, a part of a repeat is a repeat, nothing is nothing.
extern "C" __global__ __aicore__ void lengths(GM_ADDR out) {
    (void)out;
    TPipe pipe;
    TBuf<TPosition::VECCALC> first, second, third;
    pipe.InitBuffer(first, 4096);
    pipe.InitBuffer(second, 4096);
    pipe.InitBuffer(third, 4096);
    auto f = first.Get<float>(), g = second.Get<float>();
    auto h = third.Get<half>();
    auto bits = third.Get<uint8_t>();
    Duplicate(f, 1.0f, 64);                                   // 1
    Duplicate(g, 2.0f, 65);                                   // 2
    Add(g, f, g, 0);                                          // 0
    Add(g, f, f, 1);                                          // 1
    Duplicate(h, (half)1.0f, 129);                            // 2
    Cast(h, f, RoundMode::CAST_NONE, 64);                     // 1: 256 bytes of float, 128 of half
    Cast(g, h, RoundMode::CAST_NONE, 128);                    // 2: 512 bytes of float, 256 of half
    Duplicate(f, 1.0f, 640);                                  // 10
    CompareScalar(bits, f, 0.0f, CMPMODE::GT, 640);           // 10
    Select(f, bits, f, 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, 640);  // 10
    ReduceSum(g, f, g[64], 640);                              // 10
    ReduceMax(g, f, g[64], 640);                              // 10
}

// Instructions with a repeat count, whatever their mask.
extern "C" __global__ __aicore__ void repeats(GM_ADDR out) {
    (void)out;
    TPipe pipe;
    TBuf<TPosition::VECCALC> first, second;
    pipe.InitBuffer(first, 4096);
    pipe.InitBuffer(second, 4096);
    auto f = first.Get<float>(), g = second.Get<float>();
    Duplicate(f, 1.0f, (uint64_t)64, 4, 1, 8);                              // 4
    Duplicate(g, 1.0f, (uint64_t)64, 4, 1, 8);                              // 4
    Add(g, f, g, (uint64_t)3, 4, BinaryRepeatParams{1, 1, 1, 8, 8, 8});     // 4
    WholeReduceSum(g, f, (uint64_t)64, 4, 1, 1, 8);                         // 4
    Brcb(g, f, 2, BrcbRepeatParams{1, 8});                                  // 2
}
"""


OLDER = 32
"""Size of `ascendc_host_environment` before it had counters: what hostcann passes."""


class Counters(ctypes.Structure):
    """`ascendc_host_counters`."""

    _fields_ = (
        ("copied_in", ctypes.c_uint64),
        ("copied_out", ctypes.c_uint64),
        ("scalar", ctypes.c_uint64),
        ("vector_instructions", ctypes.c_uint64),
    )

    def values(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name, _type in self._fields_)


def floats(count: int) -> np.ndarray:
    return np.ones(count, np.float32)


@pytest.mark.parametrize("checks", [0, 1])
@pytest.mark.parametrize(
    ("entry", "arguments", "blocks", "expected"),
    [
        ("copies", (floats(100), floats(6)), 1, (400, 24, 0, 0)),
        ("copies", (floats(100), floats(18)), 3, (1200, 72, 0, 0)),
        ("strided", (floats(112), floats(24)), 1, (256, 64, 0, 0)),
        ("scalar_accesses", (np.arange(4, dtype=np.int32), np.zeros(1, np.int32)), 1, (0, 0, 24, 0)),
        ("lengths", (floats(1),), 1, (0, 0, 0, 59)),
        ("lengths", (floats(1),), 2, (0, 0, 0, 118)),
        ("repeats", (floats(1),), 1, (0, 0, 0, 18)),
    ],
)
def test_bytes_and_instructions_of_all_blocks_are_counted(
    build: Any, entry: str, arguments: tuple[Any, ...], blocks: int, checks: int, expected: tuple[int, ...]
) -> None:
    program, counters = build(SOURCE, ENTRIES), Counters()
    outcome = program(entry, *arguments, blocks=blocks, checks=checks, counters=counters)
    assert outcome.fault == "SUCCESS", outcome.message
    assert counters.values() == expected


def test_launches_add_up(build_once: Any) -> None:
    program, counters = build_once(SOURCE, ENTRIES), Counters()
    for _ in range(3):
        program("copies", floats(100), floats(6), counters=counters)
    assert counters.values() == (1200, 72, 0, 0)


def test_a_launch_without_counters_counts_nothing_and_runs(build_once: Any) -> None:
    out = np.zeros(6, np.float32)
    assert build_once(SOURCE, ENTRIES)("copies", floats(100), out).fault == "SUCCESS"
    assert out.tolist() == [0, 1, 1, 0, 1, 1]


def test_an_older_launcher_whose_environment_ends_before_the_counters_is_served(build_once: Any) -> None:
    # What lies behind its struct is not looked at: here it would be a wild pointer.
    wild = ctypes.cast(ctypes.c_void_p(8), ctypes.POINTER(Counters)).contents
    program = build_once(SOURCE, ENTRIES)
    outcome = program("copies", floats(100), floats(6), counters=wild, size=OLDER)
    assert outcome.fault == "SUCCESS", outcome.message


def test_an_environment_without_its_checks_is_refused(build_once: Any) -> None:
    outcome = build_once(SOURCE, ENTRIES)("copies", floats(100), floats(6), size=24)
    assert outcome.fault == "ARGUMENTS"
    assert "older ABI" in outcome.message
