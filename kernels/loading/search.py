"""Where a kernel's binary comes from: explicit path, package, just-in-time cache; and otherwise why there is none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ascend_patch.kernels import catalogue
from ascend_patch.kernels.building import BuildError
from ascend_patch.kernels.declaration import Kernel, KernelUnavailable
from ascend_patch.kernels.loading import acl
from ascend_patch.kernels.loading.elf import BadBinary
from ascend_patch.kernels.loading.index import NAME, File, Index
from ascend_patch.kernels.loading.targets import (
    ARCHITECTURE_BY_SOC,
    MODELLED,
    Target,
    architecture_of,
    device_target,
    host_target,
)

SWITCH = "ASCEND_PATCH_KERNELS"
"""``0`` switches all kernels off, ``-NAME`` (several with commas) those that it names."""
PATH = "ASCEND_PATCH_KERNEL_PATH"
"""A folder of ``ascend-patch kernels build --output``: searched first."""
PREBUILT = catalogue.FOLDER / "prebuilt"

_log = logging.getLogger("ascend_patch.kernels")


class Loaded(NamedTuple):
    """A kernel whose entries can be launched on one device."""

    file: File
    """Its bytes stay alive with it: CANN does not promise to copy them."""
    place: str
    functions: dict[str, int]


def unavailable(kernel: Kernel) -> str | None:
    """Why `kernel` cannot be launched in this process, with the remedy; None if it can. Loads it the first time."""
    import torch

    found = find(kernel, torch.npu.current_device())
    return found if isinstance(found, str) else None


@cache
def find(kernel: Kernel, device: int) -> Loaded | str:
    """Loads `kernel` on `device`, which must be the current one; or says why not. Asked once per process and device."""
    try:
        return _find(kernel)
    except KernelUnavailable as error:
        return str(error)


def _find(kernel: Kernel) -> Loaded:
    switch = os.environ.get(SWITCH, "")
    if is_off(kernel.name, switch):
        raise KernelUnavailable(f"switched off by {SWITCH}={switch}")
    target = needed_target(acl.soc_name(), acl.on_host())
    refusals = []
    for place, folder in places(kernel, target):
        try:
            directory = folder()
            file = Index.read(directory).verified(directory, kernel, target, catalogue.source_digest(kernel))
            found = Loaded(file, place, _load(kernel, file.data))
        except (BadBinary, BuildError, acl.AclError) as error:
            refusals.append(f"{place}: {error}")
            continue
        for refusal in refusals:
            _log.warning("kernel %s: refused, the next place is searched: %s", kernel.name, refusal)
        _log.debug("kernel %s: %s (%s)", kernel.name, file.path, place)
        return found
    raise KernelUnavailable("; ".join(refusals))


def is_off(name: str, switch: str) -> bool:
    """Whether a kernel is switched off by a value of `SWITCH`.

    Raises:
        KernelUnavailable: the value says nothing, or names a kernel that does not exist.
    """
    if switch in ("", "0", "1"):
        return switch == "0"
    known = catalogue.kernels()
    for word in switch.split(","):
        if word[:1] != "-" or word[1:] not in known:
            raise KernelUnavailable(
                f"{SWITCH}={switch} is not understood at {word!r}: 0 for all kernels, or -NAME,-NAME "
                f"with names of 'ascend-patch kernels list'"
            )
    return f"-{name}" in switch.split(",")


def needed_target(soc: str, on_host: bool) -> Target:
    """What a binary must be built for to run on a SoC, or on hostcann when it models that SoC.

    Raises:
        KernelUnavailable: the kernels are not written for it.
    """
    architecture = architecture_of(soc)
    if architecture is None:
        known = ", ".join(prefix for prefix, _ in ARCHITECTURE_BY_SOC)
        raise KernelUnavailable(f"no kernel is written for the SoC {soc or 'of unknown name'}, only for {known}")
    if not on_host:
        return device_target(architecture)
    if architecture != MODELLED:
        raise KernelUnavailable(f"host builds model {MODELLED}, hostcann models {soc} ({architecture})")
    try:
        return host_target()
    except ValueError as error:
        raise KernelUnavailable(str(error)) from None


def places(kernel: Kernel, target: Target) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Where to look, in order: a name for messages, and a function that gives the folder with the index."""
    explicit = os.environ.get(PATH)
    if explicit:
        root = Path(explicit).expanduser().absolute()
        folder = root / target.name if (root / target.name).is_dir() else root
        yield PATH, lambda: folder
    packaged = PREBUILT / target.name
    # Without a prebuilt folder there is nothing to refuse: that is how the package is shipped.
    if (packaged / NAME).exists():
        yield "package", lambda: packaged
    yield "just in time", lambda: _just_in_time(kernel, target)


def _just_in_time(kernel: Kernel, target: Target) -> Path:
    if target.on_device:
        from ascend_patch.kernels.building import rtc

        return rtc.build(kernel, target)
    from ascend_patch.kernels.building import host

    return host.build(kernel)


def _load(kernel: Kernel, data: bytes) -> dict[str, int]:
    binary = acl.load(data)
    try:
        return {entry: acl.function(binary, entry) for entry in kernel.entries}
    except acl.AclError:
        acl.unload(binary)
        raise
