"""Launching: values, argument layout, refusals, faults, order, streams, traces."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ascend_patch.kernels import loading
from ascend_patch.kernels.declaration import KernelLaunchError, KernelUnavailable
from ascend_patch.kernels.loading import search

from .toy import KERNEL

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]


def test_a_launch_passes_every_parameter_and_the_blocks(kernels: Path, npu: ModuleType) -> None:
    values = npu.arange(10, dtype=npu.float32, device="npu")
    loading.launch(KERNEL, "toy_scale", 5, 8, values, 0.5, 1 << 20)
    expected = [i * 0.5 + (1 << 20) + 5 for i in range(8)] + [8.0, 9.0]
    assert values.cpu().tolist() == expected


def test_a_slice_is_launched_on_its_own_address(kernels: Path, npu: ModuleType) -> None:
    values = npu.zeros(8, device="npu")
    loading.launch(KERNEL, "toy_scale", 1, 2, values[4:], 1.0, 6)
    assert values.cpu().tolist() == [0, 0, 0, 0, 7, 7, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((1, None, 1.0), TypeError, "takes (i32, ptr, f32, i64), not (int, null, float)"),
        ((1, None, 1.0, 2, 3), TypeError, "expected 4 items"),
        ((1 << 31, None, 1.0, 2), TypeError, "takes (i32"),
        ((1.5, None, 1.0, 2), TypeError, "not (float, null"),
        ((1, 4096, 1.0, 2), TypeError, "get_device"),
        ((1, None, 1.0, 2), ValueError, "none of its arguments is a tensor"),
    ],
)
def test_arguments_that_are_not_the_parameters_are_refused(
    kernels: Path, npu: ModuleType, arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        loading.launch(KERNEL, "toy_scale", 1, *arguments)
    assert words in str(caught.value) and "toy_scale" in str(caught.value)


def test_a_host_tensor_is_refused(kernels: Path, npu: ModuleType) -> None:
    with pytest.raises(ValueError, match="must be on one NPU, they are on cpu"):
        loading.launch(KERNEL, "toy_scale", 1, 1, npu.zeros(1), 1.0, 0)


def test_an_unknown_entry_is_refused_with_those_there_are(kernels: Path, npu: ModuleType) -> None:
    with pytest.raises(ValueError, match="no entry 'toy_sum'; it has toy_scale, toy_fault"):
        loading.launch(KERNEL, "toy_sum", 1, 1, npu.zeros(1, device="npu"), 1.0, 0)


@pytest.mark.parametrize("blocks", [0, 65536])
def test_the_runtime_refuses_a_number_of_blocks_that_is_not_documented(
    kernels: Path, npu: ModuleType, blocks: int
) -> None:
    with pytest.raises(KernelLaunchError, match=rf"(?s)107000: .*toy_scale on {blocks} blocks; allowed are 1"):
        loading.launch(KERNEL, "toy_scale", blocks, 1, npu.zeros(1, device="npu"), 1.0, 0)


def test_a_fault_in_a_kernel_is_an_error_with_its_line(kernels: Path, npu: ModuleType) -> None:
    values = npu.zeros(4, device="npu")
    with pytest.raises(KernelLaunchError) as caught:
        loading.launch(KERNEL, "toy_fault", 1, 1, values, 1.0, 0)
    assert "failed with 507035" in str(caught.value)
    assert "toy_fault: vector core exception: DataCopy: block 3, offset 40 is not a multiple" in str(caught.value)
    # The next launch is in order: the error was taken.
    loading.launch(KERNEL, "toy_scale", 1, 1, values, 1.0, 1)
    assert values.cpu().tolist() == [2, 0, 0, 0]


def test_a_kernel_learns_where_device_memory_ends(kernels: Path, npu: ModuleType) -> None:
    values = npu.zeros(4, device="npu")
    with pytest.raises(KernelLaunchError, match=r"reads 1000000000 values past the allocation"):
        loading.launch(KERNEL, "toy_scale", 1, 10**9, values, 1.0, 0)


def test_without_a_binary_launch_says_why(kernels: Path, npu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_PATCH_KERNELS", "0")
    with pytest.raises(KernelUnavailable, match="switched off by ASCEND_PATCH_KERNELS=0"):
        loading.launch(KERNEL, "toy_scale", 1, 1, npu.zeros(1, device="npu"), 1.0, 0)


@pytest.mark.parametrize(
    ("switch", "reason"),
    [
        ("-toy", "switched off by ASCEND_PATCH_KERNELS=-toy"),
        ("-toy,-tyo", "not understood at '-tyo': 0 for all kernels, or -NAME,-NAME"),
        ("toy", "not understood at 'toy'"),
        ("off", "not understood at 'off'"),
    ],
)
def test_single_kernels_are_switched_off_by_name(
    switch: str, reason: str, kernels: Path, npu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_PATCH_KERNELS", switch)
    with pytest.raises(KernelUnavailable, match=reason):
        loading.launch(KERNEL, "toy_scale", 1, 1, npu.zeros(1, device="npu"), 1.0, 0)


def test_other_kernels_stay_on() -> None:
    assert search.is_off("apply_penalties", "-apply_penalties,-zero_blocks")
    assert not search.is_off("lora_shrink", "-apply_penalties,-zero_blocks")


def test_the_trace_shows_one_launch_by_the_name_of_the_entry(kernels: Path, npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    values = npu.zeros(4, device="npu")
    loading.launch(KERNEL, "toy_scale", 1, 1, values, 1.0, 0)
    with trace.recording() as counts:
        loading.launch(KERNEL, "toy_scale", 40, 4, values, 1.0, 0)
        seen = counts()
    assert seen["aclnn"] == {"toy_scale": {"calls": 1, "bytes": 0}}
    assert seen["launches"] == 1 and seen["syncs"] == 0


PRELUDE = """
import os, pathlib, sys
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
from ascend_patch import hostcann
hostcann.load()
import torch, torch_npu
hostcann.attach()
torch.npu.set_device(0)
sys.path.insert(0, sys.argv[1])
import toy
from ascend_patch.kernels import catalogue, loading
from ascend_patch.kernels.loading import queue
catalogue.FOLDER = pathlib.Path(sys.argv[2])  # the toy comes built: only its digest is asked for
def scale(values, factor, offset, blocks=1):
    loading.launch(toy.KERNEL, "toy_scale", blocks, values.numel(), values, factor, offset)
"""


def run(built: Path, code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(HERE), str(built.parents[1] / "kernels")],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "ASCEND_PATCH_KERNEL_PATH": str(built), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]  # torch-npu prints warnings before


# aclnnSwiGlu on the queue thread takes milliseconds; a launch that passed it would scale what is not there yet.
QUEUED = """
x = torch.randn(512, 8192, device="npu")
plain = torch_npu.npu_swiglu(x)
torch.npu.synchronize()
wanted = (plain.cpu() * 2 + 4) * 3 + 5
for _ in range(5):
    y = torch_npu.npu_swiglu(x)
    scale(y, 2.0, 3)
    scale(y, 3.0, 4)
    torch.npu.synchronize()  # hostcann's copies do not go through the queue
    torch.testing.assert_close(y.cpu(), wanted)
print(queue.launcher().__qualname__.split(".")[0])
"""


def test_a_launch_stays_behind_operators_in_the_task_queue(kernels: Path, built: Path) -> None:
    write_kernels(built)
    assert run(built, QUEUED, TASK_QUEUE_ENABLE="1") == "queued"


def test_without_a_compiler_the_queue_is_drained_instead(kernels: Path, built: Path, tmp_path: Path) -> None:
    write_kernels(built)
    code = "queue.files.Toolchain.require = lambda: (_ for _ in ()).throw(queue.files.NoCompiler('none'))\n"
    assert run(built, code + QUEUED, TASK_QUEUE_ENABLE="1") == "direct"


def test_with_the_queue_off_nothing_is_compiled(kernels: Path, built: Path) -> None:
    write_kernels(built)
    assert run(built, QUEUED, TASK_QUEUE_ENABLE="0") == "direct"


def test_a_fault_on_the_queue_thread_surfaces_at_the_next_synchronisation(kernels: Path, built: Path) -> None:
    write_kernels(built)
    out = run(
        built,
        """
        values = torch.zeros(4, device="npu")
        torch.npu.synchronize()
        try:
            loading.launch(toy.KERNEL, "toy_fault", 1, 1, values, 1.0, 0)
            torch.npu.synchronize()
        except RuntimeError as error:
            print(str(error).partition("vector core exception: ")[2].partition("\\n")[0], flush=True)
        os._exit(0)  # at exit torch-npu waits for its queue, which is broken now
        """,
        TASK_QUEUE_ENABLE="1",
    )
    assert out == "DataCopy: block 3, offset 40 is not a multiple of 32 bytes"


def test_streams_run_their_launches_in_order_and_wait_for_each_other(kernels: Path, built: Path) -> None:
    write_kernels(built)
    out = run(
        built,
        """
        side = torch.npu.Stream()
        a = torch.zeros(1 << 20, device="npu")
        b = torch.zeros(1 << 20, device="npu")
        torch.npu.synchronize()
        for _ in range(20):
            scale(a, 1.0, 0)          # a + 1 on the current stream
            side.wait_stream(torch.npu.current_stream())
            with torch.npu.stream(side):
                scale(a, 1.0, 1)      # a + 2 behind it on the other
                scale(b, 1.0, 4)      # b + 5
            torch.npu.current_stream().wait_stream(side)
        torch.npu.synchronize()
        print(a.cpu().unique().tolist(), b.cpu().unique().tolist())
        """,
        HOSTCANN_STREAMS="concurrent",
    )
    assert out == "[60.0] [100.0]"


def test_in_null_mode_nothing_is_computed_and_the_launch_is_counted(kernels: Path, built: Path) -> None:
    write_kernels(built)
    out = run(
        built,
        """
        values = torch.full((4,), 3.0, device="npu")
        with hostcann.trace.recording() as counts:
            scale(values, 0.0, 9)
        print(values.cpu().tolist(), counts()["aclnn"]["toy_scale"]["calls"])
        """,
        HOSTCANN_COMPUTE="null",
    )
    assert out.endswith(" 1") and "10.0" not in out


def test_each_device_gets_its_own_handles(kernels: Path, built: Path) -> None:
    write_kernels(built)
    out = run(
        built,
        """
        values = [torch.zeros(2, device=f"npu:{i}") for i in range(2)]
        scale(values[1], 1.0, 6)
        scale(values[0], 1.0, 1)
        print(torch.npu.current_device(), [v.cpu().tolist() for v in values])
        """,
        HOSTCANN_DEVICES="2",
    )
    assert out == "0 [[2.0, 2.0], [7.0, 7.0]]"


def write_kernels(built: Path) -> None:
    """The toy's source where the process looks for its digest."""
    from . import toy

    toy.write(built.parents[1] / "kernels")
