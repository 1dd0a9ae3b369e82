"""Checks of `doctor` on the machine: CANN, SoC, driver, devices, the CANN on the CPU, disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ascend_patch import cache, environment
from ascend_patch.cli.findings import Finding, Machine

SUPPORTED_SOCS = ("Ascend910B", "Ascend910_93", "Ascend310P")
OLDEST_CANN = (8, 5)
"""The CANN release that torch-npu 2.9.0 and newer are released with."""

COMPANION_NODES = ("davinci_manager", "devmm_svm", "hisi_hdc")
"""Device nodes that the driver needs besides ``davinciN``; containers often lack them."""

GIB = 1 << 30


def device(machine: Machine) -> Iterator[Finding]:
    """What the overlay would run on."""
    decision = machine.device
    if decision.device is None:
        yield Finding(
            "device", "error", f"none, the overlay stays inactive: {decision.reason}",
            "on a machine with an NPU check driver and container options; to try it on the CPU set "
            "ASCEND_PATCH_DEVICE=host",
        )  # fmt: skip
    elif decision.device == "host":
        yield Finding("device", "ok", f"host: {decision.reason}; a test device, no result from it is an NPU result")
    elif not environment.has_npu_device(machine.dev):
        yield Finding("device", "error", f"npu: {decision.reason}", "check the driver, or choose the device host")
    else:
        yield Finding("device", "ok", f"npu: {decision.reason}")


def cann(machine: Machine) -> Iterator[Finding]:
    """The CANN toolkit under torch-npu."""
    if machine.device.device == "host":
        yield Finding("cann", "ok", "not needed: hostcann takes its place")
        return
    found = environment.find_cann(machine.environ, machine.root)
    if found is None:
        yield Finding(
            "cann", "error", "no CANN toolkit found",
            "install the CANN toolkit and kernels for your SoC, then source its set_env.sh",
        )  # fmt: skip
        return
    where = f"CANN {found.version or 'of unknown version'} in {found.home} ({found.source})"
    if not Path(found.home).is_dir():
        yield Finding(
            "cann", "error", f"{found.source} points to {found.home}, which does not exist",
            "source the set_env.sh of the installed CANN, or unset the variable",
        )  # fmt: skip
    elif found.source == "default folder":
        yield Finding("cann", "error", f"{where}, but this shell does not know it", f"source {found.home}/set_env.sh")
    elif not found.version:
        yield Finding("cann", "warning", where, "check that the folder is a complete CANN installation")
    elif _leading_numbers(found.version) < OLDEST_CANN:
        oldest = ".".join(map(str, OLDEST_CANN))
        yield Finding("cann", "warning", f"{where} is older than {oldest}", f"install CANN {oldest} or newer")
    else:
        yield Finding("cann", "ok", where)


def _leading_numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def soc(machine: Machine) -> Iterator[Finding]:
    """Which NPUs are on the PCI bus."""
    families = environment.soc_families(machine.root)
    text = ", ".join(f"{count} x {family}" for family, count in families.items())
    if families and not any(family in SUPPORTED_SOCS for family in families):
        yield Finding(
            "soc", "warning", f"{text}: not one the patches were written for",
            f"written for {', '.join(SUPPORTED_SOCS)} and Ascend950",
        )  # fmt: skip
    elif families:
        yield Finding("soc", "ok", text)
    elif machine.device.device == "host":
        modelled = machine.environ.get("HOSTCANN_SOC")
        yield Finding("soc", "ok", f"no NPU on the PCI bus; hostcann models {modelled or 'its default SoC'}")
    else:
        yield Finding("soc", "warning", "no NPU on the PCI bus", "a container may hide it: check on the host")


def driver(machine: Machine) -> Iterator[Finding]:
    """Kernel driver, its tool and its device nodes."""
    version = environment.driver_version(machine.root)
    tool = environment.npu_smi(machine.environ, machine.root)
    nodes = environment.device_nodes(machine.dev)
    if machine.device.device == "host" and not nodes:
        yield Finding("driver", "ok", "not needed: the device is host")
        return
    mounts = "in a container, mount the host's driver folder, npu-smi and pass the devices in"
    if version is None:
        yield Finding("driver", "warning" if nodes else "error", "no /usr/local/Ascend/driver/version.info", mounts)
    else:
        yield Finding("driver", "ok", f"driver {version}" + (f", {tool}" if tool else ", no npu-smi on the path"))
    if not nodes:
        yield Finding("devices", "error", f"no davinci node in {machine.dev}", f"load the driver; {mounts}")
        return
    missing = [name for name in COMPANION_NODES if not Path(machine.dev, name).exists()]
    closed = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if missing:
        options = " ".join(f"--device=/dev/{name}" for name in missing)
        text = f"{len(nodes)} NPU nodes, but no {', '.join(missing)}"
        yield Finding("devices", "error", text, f"docker run {options}")
    elif closed:
        yield Finding(
            "devices", "error", f"no permission to use {', '.join(closed)}",
            "add the user to the driver's group (HwHiAiUser by default)",
        )  # fmt: skip
    else:
        yield Finding("devices", "ok", f"{len(nodes)} NPU nodes")


def hostcann(machine: Machine) -> Iterator[Finding]:
    """The CANN on the CPU: compiler and build cache. Only matters when the device is host."""
    from ascend_patch import hostcann as cann
    from ascend_patch.toolchain import Toolchain

    wanted = machine.device.device == "host"
    try:
        built, compiler = cann.built(), Toolchain.find()
    except cann.HostCannError as error:
        yield Finding("hostcann", "error" if wanted else "ok", str(error), "install torch" if wanted else "")
        return
    except OSError as error:
        yield Finding(
            "hostcann", "error" if wanted else "ok",
            f"its build cache {cann.cache_root()} cannot be read: {error.strerror}",
            "set HOSTCANN_CACHE to a writable folder" if wanted else "",
        )  # fmt: skip
        return
    if built is not None:
        yield Finding("hostcann", "ok", f"built: {built}")
    elif not wanted:
        yield Finding("hostcann", "ok", "not built and not needed: the device is not host")
    elif compiler is None:
        yield Finding(
            "hostcann", "error", "not built, and there is no C++ compiler", "install g++ or clang++, or set CXX"
        )
    else:
        yield Finding(
            "hostcann", "warning", f"not built yet; the first start builds it with {compiler.command[0]}",
            "python -m ascend_patch.hostcann build",
        )  # fmt: skip


def disk(machine: Machine) -> Iterator[Finding]:
    """Room for caches, and for the shared memory that vLLM's processes talk through."""
    for check, folder, least, purpose in (
        ("disk", cache.root(machine.environ).parent, 2.0, "compiled code and models"),
        ("shared memory", Path(machine.dev, "shm"), 0.25, "the processes of one engine"),
    ):
        place = _existing(folder)
        if check == "shared memory" and place != folder:
            continue
        free = shutil.disk_usage(place).free / GIB
        text = f"{free:.1f} GiB free in {folder} for {purpose}"
        if not os.access(place, os.W_OK):
            yield Finding(check, "warning", f"{folder} is not writable", "set XDG_CACHE_HOME to a writable folder")
        elif free < least:
            remedy = "docker run --shm-size=1g" if check == "shared memory" else "make room or set XDG_CACHE_HOME"
            yield Finding(check, "warning", f"only {text}", remedy)
        else:
            yield Finding(check, "ok", text)


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
