"""Trace counts and null mode."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any


def test_counts_of_operators_copies_and_synchronisations(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    from ascend_patch.hostcann import trace

    a = torch.ones(256, device="npu")
    trace.reset()
    trace.start()
    try:
        b = a + a
        b = b + a
        b.mul_(2)
        b.view(16, 16)
        b.cpu()
        torch.arange(64).npu()
        a.nonzero()
    finally:
        trace.stop()
    a + a  # not recorded any more
    found = trace.snapshot()
    assert found["aten"]["add.Tensor"]["calls"] == 2 and found["aten"]["mul_.Tensor"]["calls"] == 1
    assert not any(name.startswith("view") for name in found["aten"])
    assert found["copy"]["device_to_host"] == {"calls": 1, "bytes": 1024}
    assert found["copy"]["host_to_device"] == {"calls": 1, "bytes": 512}
    assert found["sync"]["copy_"]["calls"] == 2 and found["sync"]["nonzero"]["calls"] == 1
    assert found["launches"] == 4 + 2  # two adds, mul_, nonzero; two copies


def test_reading_one_number_is_a_synchronisation(torch_on_npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    a = torch_on_npu.ones(1, device="npu")
    with trace.recording() as counts:
        assert a.item() == 1
    assert sum(entry["calls"] for entry in counts()["sync"].values()) >= 1


def test_the_trace_is_written_at_exit(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    run("a = torch.ones(8, device='npu'); a.mul_(2); print(a.cpu())", HOSTCANN_TRACE=path, HOSTCANN_SOC="Ascend910B1")
    found = json.loads(path.read_text())
    assert found["soc"] == "Ascend910B1" and found["compute"] == "full" and found["version"] == 1
    assert found["aten"]["mul_.Tensor"]["calls"] == 1


def test_null_mode_gives_shapes_without_arithmetic(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    out = run(
        """
        a = torch.full((4, 6), 3.0, device="npu")
        product = a @ a.t()
        assert product.shape == (4, 4) and product.dtype == torch.float32 and product.device.type == "npu"
        a.mul_(2)
        assert a.cpu().eq(3).all()                      # in place: left alone
        picked = a.argmax(-1)
        assert picked.dtype == torch.int64 and picked.cpu().tolist() == [0] * 4   # integers are zero
        assert a.contiguous().data_ptr() == a.data_ptr()  # still no copy
        values, indices = a.topk(2)
        assert values.shape == indices.shape == (4, 2)
        assert torch.cat([a, a]).shape == (8, 6)
        assert torch.arange(3, device="npu").cpu().tolist() == [0, 1, 2]
        assert torch.tensor([5]).npu().cpu().tolist() == [5]   # transfers still happen
        print("ok")
        """,
        HOSTCANN_COMPUTE="null",
        HOSTCANN_TRACE=path,
    ).stdout
    assert "ok" in out
    found = json.loads(path.read_text())
    assert found["compute"] == "null" and found["aten"]["mul_.Tensor"]["calls"] == 1
