"""Launching a loaded kernel on the current stream."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from ascend_patch.kernels.declaration import Kernel, KernelUnavailable
from ascend_patch.kernels.loading.search import unavailable


def launch(kernel: Kernel, entry: str, blocks: int, *arguments: Any) -> None:
    """Puts one launch of `entry` on the current stream of the current device.

    Args:
        blocks: how many cores run it, at least 1.
        arguments: one per declared parameter: a tensor for ``ptr`` (its first element's address; None is the null
            pointer), int or float for the others.

    Raises:
        KernelUnavailable: no binary can be loaded here.
    """
    raise KernelUnavailable(unavailable(kernel))


@cache
def vector_cores() -> int:
    """Vector cores (AIV) of the current device: the largest sensible `blocks`."""
    return int(torch.npu.get_device_properties(torch.npu.current_device()).vector_core_num)
