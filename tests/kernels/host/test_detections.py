"""Each fault that would hang, corrupt or race on the device ends the kernel with one line; the correct twin runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

PROLOGUE = """
    TPipe pipe;
    TQue<TPosition::VECIN, 1> in;
    TQue<TPosition::VECOUT, 1> result;
    TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> through;
    TBuf<TPosition::VECCALC> buffer, second;
    GlobalTensor<float> source, target;
    source.SetGlobalBuffer((__gm__ float*)x, n);
    target.SetGlobalBuffer((__gm__ float*)out, n);
    pipe.InitBuffer(in, 2, 1024);
    pipe.InitBuffer(result, 1, 1024);
    pipe.InitBuffer(through, 1, 1024);
    pipe.InitBuffer(buffer, 2048);
    pipe.InitBuffer(second, 1024);
    const DataCopyExtParams row{1, (uint32_t)(n * sizeof(float)), 0, 0, 0};
    const DataCopyPadExtParams<float> nothing{false, 0, 0, 0.0f};
    (void)row; (void)nothing;
"""
WHOLE = """
    auto a = in.AllocTensor<float>();
    DataCopyPad(a, source, row, nothing);
    in.EnQue(a);
    a = in.DeQue<float>();
    auto r = result.AllocTensor<float>();
    Adds(r, a, 1.0f, n);
    in.FreeTensor(a);
    result.EnQue(r);
    r = result.DeQue<float>();
    DataCopyPad(target, r, row);
    result.FreeTensor(r);
"""
FLAGGED = """
    auto t = buffer.Get<float>();
    DataCopyPad(t, source, row, nothing);
    SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
    Adds(t, t, 1.0f, n);
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
    DataCopyPad(target, t, row);
"""
LOOP = """
    for (int i = 0; i < 4; ++i) {
        auto t = buffer.Get<float>();
        if (i > 0) WaitFlag<HardEvent::MTE3_MTE2>(EVENT_ID1);
        DataCopyPad(t, source, row, nothing);
        SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
        WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
        Adds(t, t, 1.0f, n);
        SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
        WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
        DataCopyPad(target, t, row);
        if (i < 3) SetFlag<HardEvent::MTE3_MTE2>(EVENT_ID1);
    }
"""


def without(text: str, fragment: str, replacement: str = "") -> str:
    assert fragment in text
    return text.replace(fragment, replacement, 1)


@dataclass(frozen=True)
class Case:
    name: str
    body: str
    fault: str
    says: str = ""
    checks: int = 0


FILL = "auto t = buffer.Get<float>(); Duplicate(t, 1.0f, 512);"
CASES = (
    Case("queues", WHOLE, "SUCCESS", checks=1),
    Case("flags", FLAGGED, "SUCCESS", checks=1),
    Case("flags_in_a_loop", LOOP, "SUCCESS", checks=1),
    Case(
        "straight_through",
        "for (int i = 0; i < 3; ++i) { auto t = through.AllocTensor<float>(); DataCopyPad(t, source, row, nothing);"
        "through.EnQue(t); t = through.DeQue<float>(); if (i) PipeBarrier<PIPE_MTE3>(); DataCopyPad(target, t, row);"
        "through.FreeTensor(t); }",
        "SUCCESS",
        checks=1,
    ),
    Case(
        "barrier_of_all_pipes",
        without(
            without(FLAGGED, "WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);"),
            "SetFlag<HardEvent::MTE2_V>(EVENT_ID0);",
            "PipeBarrier<PIPE_ALL>();",
        ),
        "SUCCESS",
        checks=1,
    ),
    Case(
        "scalar_waits_for_the_copy",
        "auto t = buffer.Get<float>(); DataCopyPad(t, source, row, nothing); float v = t.GetValue(0);"
        "Adds(t, t, v, n); t.SetValue(0, 3.0f);" + FLAGGED[FLAGGED.index("    SetFlag<HardEvent::V_MTE3>") :],
        "SUCCESS",
        checks=1,
    ),
    # unified buffer
    Case("reads_past_a_tensor", FILL + "Adds(second.Get<float>(), t, 1.0f, 300);", "UB_BOUNDS", "ends after 1024"),
    Case("writes_past_a_tensor", FILL + "Duplicate(t[500], 1.0f, 64);", "ALIGNMENT", "multiple of 32"),
    Case("writes_past_the_end", FILL + "Duplicate(t[448], 1.0f, 65);", "UB_BOUNDS", "up to byte 260"),
    Case(
        "copies_past_a_buffer",
        "auto a = in.AllocTensor<float>(); DataCopyPad(a[248], source, row, nothing);",
        "UB_BOUNDS",
    ),
    Case("reads_a_value_past_the_end", FILL + "t.GetValue(512);", "UB_BOUNDS", "GetValue"),
    Case(
        "gathers_past_the_end",
        FILL + "auto o = second.Get<uint32_t>(); Duplicate(o, 2048u, 8); Gather(in.AllocTensor<float>(), t, o, 0, 8);",
        "UB_BOUNDS",
        "element 0",
    ),
    Case(
        "gathers_between_elements",
        FILL + "auto o = second.Get<uint32_t>(); Duplicate(o, 6u, 8); Gather(in.AllocTensor<float>(), t, o, 0, 8);",
        "ALIGNMENT",
        "byte 6",
    ),
    Case("repeats_past_the_end", FILL + "Adds(t, t, 1.0f, (uint64_t)64, 9, {1, 1, 8, 8});", "UB_BOUNDS"),
    Case(
        "more_than_a_core_has", "TBuf<TPosition::VECCALC> big; pipe.InitBuffer(big, 180 * 1024);", "CAPACITY", "192 KB"
    ),
    Case("offset_in_a_tbuf", "buffer.GetWithOffset<float>(256, 1040);", "UB_BOUNDS", "2048"),
    # global memory
    Case("reads_past_a_global_tensor", "DataCopyPad(in.AllocTensor<float>(), source[1], row, nothing);", "GM_BOUNDS"),
    Case("writes_past_a_global_tensor", FILL + "DataCopyPad(target[1], t, row);", "GM_BOUNDS", "writes"),
    Case(
        "reads_past_the_allocation",
        "source.SetGlobalBuffer((__gm__ float*)x);DataCopyPad(in.AllocTensor<float>(), source[1], row, nothing);",
        "GM_BOUNDS",
        "device allocation of",
    ),
    Case(
        "reads_before_the_allocation",
        "source.SetGlobalBuffer((__gm__ float*)x - 64);DataCopyPad(in.AllocTensor<float>(), source, row, nothing);",
        "GM_BOUNDS",
        "DataCopyPad: reads",  # what lies before it may be nothing, or another allocation that ends too early
    ),
    Case("reads_a_global_value_past_the_end", "source.GetValue(n);", "GM_BOUNDS", "GetValue"),
    Case("has_no_global_address", "GlobalTensor<float> g; g.GetValue(0);", "GM_BOUNDS", "SetGlobalBuffer"),
    # alignment and length
    Case("starts_between_blocks", FILL + "Adds(t[3], t[3], 1.0f, 8);", "ALIGNMENT", "byte 4108"),
    Case("copies_to_between_blocks", "DataCopyPad(buffer.Get<float>()[1], source, row, nothing);", "ALIGNMENT"),
    Case(
        "copies_from_an_odd_address",
        "GlobalTensor<float> odd; odd.SetGlobalBuffer((__gm__ float*)(x + 2));DataCopy(buffer.Get<float>(), odd, 8);",
        "ALIGNMENT",
        "multiple of 4",
    ),
    Case("copies_an_odd_length", "DataCopy(buffer.Get<float>(), source, 13);", "LENGTH", "52 bytes"),
    Case("copies_half_an_element", "DataCopyPad(buffer.Get<float>(), source, {1, 6, 0, 0, 0}, nothing);", "LENGTH"),
    Case(
        "compares_part_of_a_repeat",
        FILL + "CompareScalar(second.Get<uint8_t>(), t, 0.0f, CMPMODE::GT, 72);",
        "LENGTH",
        "multiple of 256",
    ),
    Case("masks_more_than_a_repeat", FILL + "Adds(t, t, 1.0f, (uint64_t)65, 1, {1, 1, 8, 8});", "LENGTH", "64"),
    Case("pads_more_than_a_block", "DataCopyPad(buffer.Get<float>(), source, row, {true, 0, 9, 0.0f});", "VALUE"),
    Case("overlaps_in_part", FILL + "Adds(t[8], t, 1.0f, 64);", "OVERLAP"),
    Case("has_too_little_work_space", FILL + "ReduceMax(t, t[64], t[504], 400);", "UB_BOUNDS", "sharedTmpBuffer"),
    # unallocated tensors
    Case(
        "uses_no_memory", FILL + "LocalTensor<float> none; Adds(t, none, 1.0f, 8);", "UNALLOCATED", "src has no memory"
    ),
    Case(
        "uses_a_tbuf_without_memory", "TBuf<TPosition::VECCALC> none; none.Get<float>();", "UNALLOCATED", "InitBuffer"
    ),
    Case(
        "uses_a_freed_tensor",
        without(WHOLE, "in.FreeTensor(a);", "").replace("auto r", "in.FreeTensor(a); auto r", 1),
        "UNALLOCATED",
        "freed",
    ),
    Case("uses_a_queued_tensor", without(WHOLE, "a = in.DeQue<float>();"), "UNALLOCATED", "DeQue"),
    Case("stores_a_queued_tensor", without(WHOLE, "r = result.DeQue<float>();"), "UNALLOCATED", "DeQue"),
    # queues
    Case("does_not_free", without(WHOLE, "result.FreeTensor(r);"), "QUEUE", "never freed"),
    Case("allocates_from_a_full_queue", "for (int i = 0; i < 3; ++i) in.AllocTensor<float>();", "QUEUE", "would hang"),
    Case("dequeues_nothing", without(WHOLE, "in.EnQue(a);"), "QUEUE", "empty"),
    Case("enqueues_twice", without(WHOLE, "in.EnQue(a);", "in.EnQue(a); in.EnQue(a);"), "UNALLOCATED", "EnQue"),
    Case(
        "enqueues_beyond_the_depth",
        "auto a = in.AllocTensor<float>(); auto b = in.AllocTensor<float>();in.EnQue(a); in.EnQue(b);",
        "QUEUE",
        "depth 1",
    ),
    Case("enqueues_elsewhere", without(WHOLE, "in.EnQue(a);", "result.EnQue(a);"), "QUEUE", "does not belong"),
    Case("frees_elsewhere", without(WHOLE, "in.FreeTensor(a);", "result.FreeTensor(a);"), "QUEUE", "does not belong"),
    Case("frees_twice", without(WHOLE, "in.FreeTensor(a);", "in.FreeTensor(a); in.FreeTensor(a);"), "UNALLOCATED"),
    Case("leaves_a_queue_filled", "auto a = in.AllocTensor<float>(); in.EnQue(a);", "QUEUE", "DeQue is missing"),
    Case("has_no_buffers", "TQue<TPosition::VECIN, 1> none; none.AllocTensor<float>();", "QUEUE", "InitBuffer"),
    # flags
    Case("waits_for_nothing", without(FLAGGED, "SetFlag<HardEvent::MTE2_V>(EVENT_ID0);"), "FLAG", "never set"),
    Case(
        "waits_for_another_event",
        without(FLAGGED, "WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);", "WaitFlag<HardEvent::MTE2_V>(EVENT_ID1);"),
        "FLAG",
        "MTE2_V 1",
    ),
    Case("sets_for_nobody", without(FLAGGED, "WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);"), "FLAG", "WaitFlag is missing"),
    Case(
        "sets_twice",
        without(
            FLAGGED,
            "SetFlag<HardEvent::MTE2_V>(EVENT_ID0);",
            "SetFlag<HardEvent::MTE2_V>(EVENT_ID0); SetFlag<HardEvent::MTE2_V>(EVENT_ID0);",
        ),
        "FLAG",
        "set already",
    ),
    Case(
        "uses_a_queue_s_event",
        "auto a = in.AllocTensor<float>(); in.EnQue(a); SetFlag<HardEvent::MTE2_V>(EVENT_ID0);",
        "FLAG",
        "held by a queue",
    ),
    Case("event_out_of_range", "SetFlag<HardEvent::MTE2_V>(8);", "VALUE", "0..7"),
    # races: the numbers come out right here
    Case(
        "computes_before_the_copy_is_done",
        without(without(FLAGGED, "SetFlag<HardEvent::MTE2_V>(EVENT_ID0);"), "WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);"),
        "RACE",
        "MTE2_V",
        checks=1,
    ),
    Case(
        "stores_before_the_result_is_there",
        without(without(FLAGGED, "SetFlag<HardEvent::V_MTE3>(EVENT_ID0);"), "WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);"),
        "RACE",
        "V_MTE3",
        checks=1,
    ),
    Case("orders_the_wrong_way", FLAGGED.replace("MTE2_V", "V_MTE2"), "RACE", "MTE2_V", checks=1),
    Case(
        "loads_over_what_is_being_stored",
        LOOP.replace("if (i < 3) SetFlag<HardEvent::MTE3_MTE2>(EVENT_ID1);", "").replace(
            "if (i > 0) WaitFlag<HardEvent::MTE3_MTE2>(EVENT_ID1);", ""
        ),
        "RACE",
        "MTE2 writes",
        checks=1,
    ),
    Case("stores_twice_without_a_barrier", FLAGGED + "DataCopyPad(target, t, row);", "RACE", "PipeBarrier", checks=1),
    Case(
        "loads_twice_without_a_barrier",
        "auto t = buffer.Get<float>(); DataCopyPad(t, source, row, nothing);DataCopyPad(t, source, row, nothing);",
        "RACE",
        "PipeBarrier<PIPE_MTE2>",
        checks=1,
    ),
    Case(
        "reads_back_without_waiting",
        FLAGGED + "DataCopyPad(second.Get<float>(), target, row, nothing);",
        "RACE",
        "global memory",
        checks=1,
    ),
    Case("leaves_scalars_in_the_cache", "target.SetValue(0, 1.0f);", "RACE", "DataCacheCleanAndInvalid"),
    Case(
        "cleans_the_cache",
        "target.SetValue(0, 1.0f); DataCacheCleanAndInvalid<float, CacheLine::SINGLE_CACHE_LINE,"
        "DcciDst::CACHELINE_OUT>(target);",
        "SUCCESS",
    ),
    # memory nobody wrote
    Case(
        "computes_with_nothing",
        "Adds(second.Get<float>(), buffer.Get<float>(), 1.0f, 64);",
        "UNINITIALISED",
        "nothing has written",
        checks=1,
    ),
    Case(
        "stores_nothing",
        "auto r = result.AllocTensor<float>(); Duplicate(r, 1.0f, n - 1); result.EnQue(r);"
        "r = result.DeQue<float>(); DataCopyPad(target, r, row); result.FreeTensor(r);",
        "UNINITIALISED",
        "some of which",
        checks=1,
    ),
)
SYNC = {
    "sync_by_some": ("if (GetBlockIdx() != 1) SyncAll();", "BLOCKS", "would hang"),
    "sync_by_the_last": ("if (GetBlockIdx() == 2) SyncAll();", "BLOCKS", "would hang"),
    "write_the_same_bytes": (WHOLE, "RACE", "SyncAll"),
    "write_in_turn": (
        "for (int i = 0; i < 3; ++i) { if (GetBlockIdx() == i) {" + WHOLE + "} SyncAll(); }",
        "SUCCESS",
        "",
    ),
    "add_to_the_same_bytes": ("SetAtomicAdd<float>();" + WHOLE + "SetAtomicNone();", "SUCCESS", ""),
}


def kernel(name: str, body: str) -> str:
    head = f'extern "C" __global__ __aicore__ void {name}(GM_ADDR x, GM_ADDR out, int32_t n)'
    return f"{head} {{\n{PROLOGUE}\n{body}\n}}\n"


@pytest.fixture(scope="module")
def program(build: Any) -> Any:
    bodies = {case.name: case.body for case in CASES} | {name: body for name, (body, _, _) in SYNC.items()}
    text = '#include "kernel_operator.h"\nusing namespace AscendC;\n'
    return build(text + "".join(kernel(name, body) for name, body in bodies.items()), tuple(bodies))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_is_found_and_named(program: Any, case: Case) -> None:
    x, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    outcome = program(case.name, x, out, 64, checks=case.checks)
    assert outcome.fault == case.fault, outcome.message
    assert case.says in outcome.message
    assert "\n" not in outcome.message
    if case.fault != "SUCCESS":
        assert outcome.message.startswith("block 0, line ")


@pytest.mark.parametrize("name", sorted(SYNC))
def test_faults_between_blocks(program: Any, name: str) -> None:
    _, fault, says = SYNC[name]
    outcome = program(name, np.zeros(64, np.float32), np.zeros(64, np.float32), 64, blocks=3)
    assert (outcome.fault, says in outcome.message) == (fault, True), outcome.message


def test_races_are_looked_for_only_when_asked(program: Any) -> None:
    x, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    assert program("computes_before_the_copy_is_done", x, out, 64, checks=0).fault == "SUCCESS"
    # The reason for looking: here the numbers are right.
    np.testing.assert_array_equal(out, x + 1)


def test_the_message_names_the_line_of_the_kernel(build_once: Any) -> None:
    body = "\n\n    Duplicate(buffer.Get<float>(), 1.0f, 4096);\n"
    text = '#include "kernel_operator.h"\nusing namespace AscendC;\n' + kernel("far", body)
    line = next(i for i, row in enumerate(text.split("\n"), 1) if "4096" in row)
    outcome = build_once(text, ("far",))("far", np.zeros(8, np.float32), np.zeros(8, np.float32), 8)
    assert outcome.message.startswith(f"block 0, line {line}: Duplicate: ")


def test_a_fault_leaves_the_next_launch_alone(program: Any) -> None:
    x, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    for _ in range(3):
        assert program("does_not_free", x, out, 64).fault == "QUEUE"
        assert program("sync_by_some", x, out, 64, blocks=3).fault == "BLOCKS"
        assert program("queues", x, out, 64).fault == "SUCCESS"
    np.testing.assert_array_equal(out, x + 1)


def test_arguments_that_do_not_fit_the_source_are_refused(program: Any) -> None:
    x = np.zeros(64, np.float32)
    assert program("queues", x, x).fault == "ARGUMENTS"
    assert program("queues", x, x, 64, x).fault == "ARGUMENTS"
    assert program("queues", x, x, 64, blocks=0).fault == "ARGUMENTS"


REFUSED = {
    "And of int8": "LocalTensor<int8_t> t; And(t, t, t, 8);",
    "And of int32": "LocalTensor<int32_t> t; And(t, t, t, 8);",
    "Add of int64": "LocalTensor<int64_t> t; Add(t, t, t, 8);",
    "Add of bfloat16": "LocalTensor<bfloat16_t> t; Add(t, t, t, 8);",
    "Div of int32": "LocalTensor<int32_t> t; Div(t, t, t, 8);",
    "Duplicate of int64": "LocalTensor<int64_t> t; Duplicate(t, (int64_t)0, 8);",
    "Select of int32": "LocalTensor<int32_t> t; LocalTensor<uint8_t> m; "
    "Select(t, m, t, t, SELMODE::VSEL_TENSOR_TENSOR_MODE, 8);",
    "Compare of bfloat16": "LocalTensor<bfloat16_t> t; LocalTensor<uint8_t> m; Compare(m, t, t, CMPMODE::EQ, 128);",
    "Cast of int8 to float": "LocalTensor<int8_t> a; LocalTensor<float> b; Cast(b, a, RoundMode::CAST_NONE, 8);",
    "Cast of int64 to half": "LocalTensor<int64_t> a; LocalTensor<half> b; Cast(b, a, RoundMode::CAST_NONE, 8);",
    "ReduceMax of int32": "LocalTensor<int32_t> t; ReduceMax(t, t, t, 8);",
    "Gather of int64": "LocalTensor<int64_t> t; LocalTensor<uint32_t> o; Gather(t, t, o, 0, 8);",
    "a queue of VECCALC": "TQue<TPosition::VECCALC, 1> q;",
    "a barrier of S": "PipeBarrier<PIPE_S>();",
    "arithmetic on bfloat16": "bfloat16_t a{0}; auto b = a + a; (void)b;",
    "a count too many": "LocalTensor<float> t; Adds(t, t, 1.0f, 8, 1);",
}


def test_dtypes_outside_the_documented_tables_do_not_compile(build: Any) -> None:
    text = '#include "kernel_operator.h"\nusing namespace AscendC;\n'
    # One compilation: every refused line must be among the errors.
    for name, body in REFUSED.items():
        text += f"// {name}\nvoid refused_{len(text)}() {{ {body} }}\n"
    done = build.compile(text, ())
    assert done.returncode != 0
    rows = text.split("\n")
    for number, row in enumerate(rows, 1):
        if row.startswith("void refused_"):
            assert f".cpp:{number}:" in done.stderr, rows[number - 2]
