"""What a binary can be built for: the device architectures, and this machine's CPU."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One kind of binary.

    Attributes:
        name: also the name of the folder under ``prebuilt``.
        architecture: the instruction set of the vector cores it is for, or whose behaviour it has.
        machine: ``e_machine`` of its ELF files.
        flags: ``e_flags`` of vector code; None if they say nothing.
        suffix: of its files.
    """

    name: str
    architecture: str
    machine: int
    flags: int | None
    suffix: str

    @property
    def on_device(self) -> bool:
        return self.machine == DEVICE_MACHINE


DEVICE_MACHINE = 0x1029

# ELF machine and flags as read off published kernel files: A2 and A3 share one architecture and one flag value.
DEVICE_TARGETS = (
    Target("dav-2201", "dav-2201", DEVICE_MACHINE, 0x930000, ".o"),
    Target("dav-3510", "dav-3510", DEVICE_MACHINE, 0x990000, ".o"),
)

# Longest prefix first: Ascend910_93 must not be taken for another 910.
ARCHITECTURE_BY_SOC = (
    ("Ascend910_93", "dav-2201"),
    ("Ascend910B", "dav-2201"),
    ("Ascend950", "dav-3510"),
)

_HOST_MACHINES = {"x86_64": 62, "aarch64": 183}
MODELLED = "dav-2201"
"""The architecture whose unified buffer, alignment and dtype rules ``kernels/host`` checks."""


def architecture_of(soc: str) -> str | None:
    """The architecture of a SoC by the name ``aclrtGetSocName`` gives; None if no kernel is written for it."""
    return next((architecture for prefix, architecture in ARCHITECTURE_BY_SOC if soc.startswith(prefix)), None)


def host_target() -> Target:
    """Builds for this machine's CPU.

    Raises:
        ValueError: no 64-bit x86 or ARM.
    """
    machine = platform.machine()
    if machine not in _HOST_MACHINES:
        raise ValueError(f"host builds run on {' and '.join(_HOST_MACHINES)}, this is {machine}")
    return Target(f"host-{machine}", MODELLED, _HOST_MACHINES[machine], None, ".so")


def device_target(architecture: str) -> Target:
    """The device binary for an architecture of `ARCHITECTURE_BY_SOC`."""
    return next(target for target in DEVICE_TARGETS if target.architecture == architecture)
