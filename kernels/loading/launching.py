"""Launching a loaded kernel on the current stream."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from ascend_patch.kernels.declaration import Kernel, KernelLaunchError, KernelUnavailable
from ascend_patch.kernels.loading import acl, queue
from ascend_patch.kernels.loading.search import find


class _Bound(NamedTuple):
    """One entry on one device, with everything that a launch would otherwise look up."""

    function: int
    pack: Callable[..., bytes]
    size: int
    pointers: tuple[int, ...]
    launch: queue.Launch
    current_device: Callable[[], int]


_bound: dict[tuple[str, str, int], _Bound] = {}


def launch(kernel: Kernel, entry: str, blocks: int, *arguments: Any) -> None:
    """Puts one launch of `entry` on the current stream of the device that the tensors are on.

    The launch is ordered behind every operator that torch-npu has queued. Nothing waits for the kernel: on an NPU a
    fault surfaces at a later synchronisation; on hostcann with streams in order it surfaces here.

    Args:
        blocks: how many cores run it, 1 to 65535 (CANN, aclrtLaunchKernelWithHostArgs).
        arguments: one per declared parameter: a tensor for ``ptr`` (its first element's address; None is the null
            pointer), int or float for the others. The caller answers for layout and size.

    Raises:
        KernelUnavailable: no binary can be loaded here.
        KernelLaunchError: the runtime refused the launch, or the kernel faulted before this returned.
        ValueError: an unknown entry, a tensor that is not on the device of the others.
        TypeError: arguments that are not the declared parameters.
    """
    device = -1
    values = list(arguments)
    for argument in arguments:
        if hasattr(argument, "data_ptr"):
            device = argument.get_device()
            break
    bound = _bound.get((kernel.name, entry, device)) or _bind(kernel, entry, device)
    try:
        for place in bound.pointers:
            tensor = values[place]
            if tensor is None:
                values[place] = 0
                continue
            if tensor.get_device() != device:
                raise ValueError(f"{entry}: argument {place} is on {tensor.device}, others are on npu:{device}")
            values[place] = tensor.data_ptr()
        packed = bound.pack(*values)
    except (struct.error, AttributeError, IndexError) as error:
        raise TypeError(
            f"{entry} takes ({', '.join(kernel.parameters)}), not ({', '.join(map(_kind, arguments))}): {error}"
        ) from None
    if bound.current_device() == device:
        code = bound.launch(bound.function, blocks, device, packed, bound.size, entry)
    else:
        code = _launch_on(bound, blocks, device, packed, entry)
    if code:
        raise KernelLaunchError(str(acl.failure(f"launch of {entry}", code)))


def _launch_on(bound: _Bound, blocks: int, device: int, packed: bytes, entry: str) -> int:
    """A stream belongs to its device's context, which must be the thread's current one (CANN error 107003)."""
    import torch

    with torch.npu.device(device):
        return bound.launch(bound.function, blocks, device, packed, bound.size, entry)


def _kind(argument: object) -> str:
    return "null" if argument is None else type(argument).__name__


def _bind(kernel: Kernel, entry: str, device: int) -> _Bound:
    import torch
    from torch_npu import _C

    if entry not in kernel.entries:
        raise ValueError(f"kernel {kernel.name} has no entry {entry!r}; it has {', '.join(kernel.entries)}")
    if device < 0:
        raise ValueError(f"{entry}: no argument is a tensor on an NPU")
    with torch.npu.device(device):
        loaded = find(kernel, device)
    if isinstance(loaded, str):
        raise KernelUnavailable(loaded)
    layout = struct.Struct(kernel.layout)
    pointers = tuple(place for place, word in enumerate(kernel.parameters) if word == "ptr")
    bound = _Bound(loaded.functions[entry], layout.pack, layout.size, pointers, queue.launcher(), _C._npu_getDevice)
    _bound[kernel.name, entry, device] = bound
    return bound


@cache
def vector_cores() -> int:
    """Vector cores (AIV) of the current device: the largest sensible `blocks`."""
    import torch

    return int(torch.npu.get_device_properties(torch.npu.current_device()).vector_core_num)
