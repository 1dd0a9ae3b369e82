"""What the device is: asked once, through torch_npu."""

from __future__ import annotations

from functools import cache
from typing import Literal, cast

import torch

from ascend_patch.npu import _operators as _operators

SocFamily = Literal["910B", "910_93", "310P", "950"]

# Longest first: Ascend910_93 must not be taken for a 910.
_FAMILIES: tuple[tuple[str, SocFamily], ...] = (
    ("Ascend910_93", "910_93"),
    ("Ascend910B", "910B"),
    ("Ascend310P", "310P"),
    ("Ascend950", "950"),
)


class Stream(torch.npu.Stream):
    """A stream that can be asked what `torch.cuda.Stream` can.

    torch-npu has priorities but cannot tell their range; every stream gets the default one.
    """

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """Least and greatest priority."""
        return 0, 0


def is_available() -> bool:
    """Whether torch_npu finds at least one device."""
    return bool(torch.npu.is_available())


def device_count() -> int:
    """Number of visible devices."""
    return int(torch.npu.device_count())


def device_name(device_id: int = 0) -> str:
    """The SoC's name as CANN reports it, e.g. ``Ascend910B3``.

    Raises:
        AssertionError: from torch_npu, if there is no such device.
    """
    return cast(str, torch.npu.get_device_name(device_id))


@cache
def soc_family() -> SocFamily:
    """The hardware generation whose operator limits apply.

    Raises:
        RuntimeError: for a SoC that ascend_patch does not know.
    """
    name = device_name()
    for prefix, family in _FAMILIES:
        if name.startswith(prefix):
            return family
    known = ", ".join(prefix for prefix, _ in _FAMILIES)
    raise RuntimeError(f"ascend_patch does not know the SoC {name!r}; it knows {known}")


def total_memory(device_id: int = 0) -> int:
    """Device memory in bytes. Sets up the device in this process: CANN tells it only to a process with a context."""
    with torch.npu.device(device_id):
        return int(torch.npu.get_device_properties(device_id).total_memory)


def vector_core_count(device_id: int = 0) -> int:
    """Number of vector cores. Sets up the device in this process, like `total_memory`."""
    with torch.npu.device(device_id):
        return int(torch.npu.get_device_properties(device_id).vector_core_num)


@cache
def supports_bfloat16() -> bool:
    """Whether the operators compute in bfloat16; Atlas inference products (310P) do not."""
    return soc_family() != "310P"
