"""Launching a loaded kernel on the current stream."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from ascend_patch.kernels.declaration import Kernel, KernelLaunchError, KernelUnavailable
from ascend_patch.kernels.loading import acl, queue
from ascend_patch.kernels.loading.search import find


class _Plan(NamedTuple):
    """One entry of a kernel, with everything that a launch would otherwise work out each time."""

    pointers: tuple[int, ...]
    pack: Callable[..., bytes]
    size: int
    functions: dict[int, int]
    """Function handle on each device that was launched on so far."""
    launch: queue.Launch
    current_device: Callable[[], int]


_UNKNOWN = -2  # -1 is what a CPU tensor says

_plans: dict[tuple[str, str], _Plan] = {}


def launch(kernel: Kernel, entry: str, blocks: int, *arguments: Any) -> None:
    """Puts one launch of `entry` on the current stream of the device that the tensors are on.

    The launch is ordered behind every operator that torch-npu has queued. Nothing waits for the kernel: on an NPU a
    fault surfaces at a later synchronisation; on hostcann with streams in order it surfaces here.

    Args:
        blocks: how many cores run it, 1 to 65535 (CANN, aclrtLaunchKernel).
        arguments: one per declared parameter: a tensor for ``ptr`` (its first element's address; None is the null
            pointer), int or float for the others. The caller answers for layout and size.

    Raises:
        KernelUnavailable: no binary can be loaded here.
        KernelLaunchError: the runtime refused the launch, or the kernel faulted before this returned.
        ValueError: an unknown entry, or tensors that are not all on one NPU.
        TypeError: arguments that are not the declared parameters.
    """
    plan = _plans.get((kernel.name, entry)) or _plan(kernel, entry)
    values = list(arguments)
    device = _UNKNOWN
    try:
        for place in plan.pointers:
            tensor = values[place]
            if tensor is None:
                values[place] = 0
                continue
            found = tensor.get_device()
            if found != device:
                if device != _UNKNOWN or found < 0:
                    raise _misplaced(entry, arguments, plan.pointers)
                device = found
            values[place] = tensor.data_ptr()
        packed = plan.pack(*values)
    except (struct.error, AttributeError, IndexError) as error:
        given = ", ".join(map(_kind, arguments))
        raise TypeError(f"{entry} takes ({', '.join(kernel.parameters)}), not ({given}): {error}") from None
    function = plan.functions.get(device) or _bind(kernel, entry, device, plan)
    if plan.current_device() == device:
        code = plan.launch(function, blocks, device, packed, plan.size, entry)
    else:
        code = _launch_on(plan, function, blocks, device, packed, entry)
    if code:
        raise KernelLaunchError(str(acl.failure(f"launch of {entry}", code)))


def _launch_on(plan: _Plan, function: int, blocks: int, device: int, packed: bytes, entry: str) -> int:
    """A stream belongs to its device's context, which must be the thread's current one (CANN error 107003)."""
    import torch

    with torch.npu.device(device):
        return plan.launch(function, blocks, device, packed, plan.size, entry)


def _misplaced(entry: str, arguments: Sequence[Any], pointers: Sequence[int]) -> ValueError:
    devices = ", ".join(str(arguments[place].device) for place in pointers if arguments[place] is not None)
    return ValueError(f"{entry}: its tensors must be on one NPU, they are on {devices}")


def _kind(argument: object) -> str:
    return "null" if argument is None else type(argument).__name__


def _plan(kernel: Kernel, entry: str) -> _Plan:
    from torch_npu import _C

    if entry not in kernel.entries:
        raise ValueError(f"kernel {kernel.name} has no entry {entry!r}; it has {', '.join(kernel.entries)}")
    layout = struct.Struct(kernel.layout)
    pointers = tuple(place for place, word in enumerate(kernel.parameters) if word == "ptr")
    plan = _Plan(pointers, layout.pack, layout.size, {}, queue.launcher(), _C._npu_getDevice)
    _plans[kernel.name, entry] = plan
    return plan


def _bind(kernel: Kernel, entry: str, device: int, plan: _Plan) -> int:
    import torch

    if device < 0:
        raise ValueError(f"{entry}: none of its arguments is a tensor, so there is no device to launch on")
    with torch.npu.device(device):
        loaded = find(kernel, device)
    if isinstance(loaded, str):
        raise KernelUnavailable(loaded)
    plan.functions[device] = loaded.functions[entry]
    return loaded.functions[entry]


@cache
def vector_cores() -> int:
    """Vector cores (AIV) of the current device: the largest sensible `blocks`."""
    import torch

    return int(torch.npu.get_device_properties(torch.npu.current_device()).vector_core_num)
