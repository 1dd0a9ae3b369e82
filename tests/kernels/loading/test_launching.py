"""Launching: values, argument layout, refusals, faults, streams, traces."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from ascend_patch.kernels import loading
from ascend_patch.kernels.declaration import KernelLaunchError

from .toy import KERNEL


def test_a_launch_passes_every_parameter_and_the_blocks(kernels: Path, npu: ModuleType) -> None:
    values = npu.arange(10, dtype=npu.float32, device="npu")
    loading.launch(KERNEL, "toy_scale", 5, 8, values, 0.5, 1 << 20)
    expected = [i * 0.5 + (1 << 20) + 5 for i in range(8)] + [8.0, 9.0]
    assert values.cpu().tolist() == expected
