"""Streams, events, callbacks, and the modes that defer or check."""

from __future__ import annotations

import ctypes
import time
from types import ModuleType
from typing import Any

import pytest


def test_event_time_is_the_time_between_records(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    start, end = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    start.record()
    time.sleep(0.05)
    end.record()
    end.synchronize()
    assert 50 <= start.elapsed_time(end) < 500
    assert start.query() and end.query()


def test_streams_have_distinct_handles_and_the_context_manager_switches(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    default = torch.npu.current_stream()
    stream = torch.npu.Stream()
    assert stream.npu_stream != default.npu_stream
    with torch.npu.stream(stream):
        assert torch.npu.current_stream() == stream
    assert torch.npu.current_stream() == default
    assert stream.query()
    stream.synchronize()


def test_destroyed_and_invented_handles_are_refused(torch_on_npu: ModuleType) -> None:
    from ascend_patch.hostcann import _loader

    torch_on_npu.empty(1, device="npu")
    acl = _loader.handle("ascendcl")
    stream = ctypes.c_void_p()
    assert acl.aclrtCreateStream(ctypes.byref(stream)) == 0
    assert acl.aclrtSynchronizeStream(stream) == 0
    assert acl.aclrtDestroyStream(stream) == 0
    assert acl.aclrtSynchronizeStream(stream) == 107000
    assert acl.aclrtRecordEvent(ctypes.c_void_p(12345), None) == 107000
    priority = ctypes.c_uint32(8)
    assert acl.aclrtCreateStreamWithConfig(ctypes.byref(stream), priority, 0) == 107000


CONFLICTS = """
stream = torch.npu.Stream()
a = torch.ones(1000, device="npu")
def refused(work):
    try:
        work()
    except RuntimeError as error:
        return str(error)
    return ""
def on_stream(work):
    with torch.npu.stream(stream):
        return work()
"""


def test_check_mode_names_both_operations_of_a_read_after_write(run: Any) -> None:
    out = run(CONFLICTS + "\nprint(refused(lambda: on_stream(lambda: a * 2)))", HOSTCANN_STREAMS="check").stdout
    assert "missing synchronisation: mul.Tensor" in out and "which ones on stream" in out and "wrote" in out


def test_check_mode_finds_a_write_after_read(run: Any) -> None:
    source = (
        CONFLICTS
        + """
stream.wait_stream(torch.npu.current_stream())
b = on_stream(lambda: a * 2)
print(refused(lambda: a.add_(1)))
"""
    )
    out = run(source, HOSTCANN_STREAMS="check").stdout
    assert "add_.Tensor" in out and "which mul.Tensor" in out and "read" in out


@pytest.mark.parametrize(
    "wait",
    [
        "stream.wait_stream(torch.npu.current_stream())",
        "torch.npu.synchronize()",
        "torch.npu.current_stream().synchronize()",
        "event = torch.npu.Event(); event.record(); stream.wait_event(event)",
        "event = torch.npu.Event(); event.record(); event.synchronize()",
    ],
)
def test_check_mode_is_content_with_every_kind_of_synchronisation(run: Any, wait: str) -> None:
    source = CONFLICTS + wait + "\nprint('refused:', refused(lambda: on_stream(lambda: a * 2)))"
    assert run(source, HOSTCANN_STREAMS="check").stdout.strip().endswith("refused:")


def test_check_mode_lets_streams_work_on_different_rows_and_columns(run: Any) -> None:
    source = (
        CONFLICTS
        + """
m = torch.zeros(16, 64, device="npu")
torch.npu.synchronize()
m[:8].fill_(1)
on_stream(lambda: m[8:].fill_(2))
torch.npu.synchronize()
m[:, :32].fill_(3)
print("columns", refused(lambda: on_stream(lambda: m[:, 32:].fill_(4))))
print("overlap", refused(lambda: on_stream(lambda: m[:, 31:33].fill_(5))))
"""
    )
    out = run(source, HOSTCANN_STREAMS="check").stdout
    assert "columns \n" in out and "overlap [hostcann] missing synchronisation" in out


def test_concurrent_streams_give_the_same_results(run: Any) -> None:
    source = """
    stream = torch.npu.Stream()
    total = torch.zeros(256, device="npu")
    for i in range(50):
        stream.wait_stream(torch.npu.current_stream())
        with torch.npu.stream(stream):
            pinned = torch.full((256,), float(i)).pin_memory()
            x = pinned.to("npu", non_blocking=True)
        torch.npu.current_stream().wait_stream(stream)
        total += x
    assert total.cpu().eq(sum(range(50))).all()
    print("ok")
    """
    assert "ok" in run(source, HOSTCANN_STREAMS="concurrent").stdout


def test_concurrent_mode_really_defers_and_waits_for_events(run: Any) -> None:
    source = """
    import ctypes, time
    from ascend_patch.hostcann import _loader
    torch.empty(1, device="npu")
    acl = _loader.handle("ascendcl")
    order = []
    Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    slow = Callback(lambda _: (time.sleep(0.2), order.append("slow")))
    fast = Callback(lambda _: order.append("fast"))
    first, second, event = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert acl.aclrtCreateStream(ctypes.byref(first)) == acl.aclrtCreateStream(ctypes.byref(second)) == 0
    assert acl.aclrtCreateEvent(ctypes.byref(event)) == 0
    assert acl.aclrtLaunchCallback(slow, None, 1, first) == 0
    assert acl.aclrtRecordEvent(event, first) == 0
    assert acl.aclrtStreamWaitEvent(second, event) == 0
    assert acl.aclrtLaunchCallback(fast, None, 1, second) == 0
    status = ctypes.c_int(9)
    acl.aclrtQueryEventStatus(event, ctypes.byref(status))
    print("pending", status.value, order)
    assert acl.aclrtSynchronizeStream(second) == 0
    acl.aclrtQueryEventStatus(event, ctypes.byref(status))
    print("after", status.value, order)
    """
    out = run(source, HOSTCANN_STREAMS="concurrent").stdout
    assert "pending 0 []" in out and "after 1 ['slow', 'fast']" in out


def test_a_callback_runs_after_what_was_submitted_before(torch_on_npu: ModuleType) -> None:
    from ascend_patch.hostcann import _loader

    torch_on_npu.empty(1, device="npu")
    acl = _loader.handle("ascendcl")
    seen: list[int] = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(data or 0))
    assert acl.aclrtLaunchCallback(callback, ctypes.c_void_p(42), 1, None) == 0
    assert acl.aclrtSynchronizeDevice() == 0
    assert seen == [42]
