"""What this machine has, found without importing any of it (distributions: see `engine.installed`).

CANN and the driver are found by their version files, NPUs by their device nodes and PCI ids. Every
function takes the folders it looks at as parameters; the defaults are the real ones.

Only `os` and `sys` are needed while a process starts: activation uses this
module as well, before vLLM is imported.
"""

# Importing pathlib costs more than everything done here:
# ruff: noqa: PTH112, PTH113, PTH118, PTH119, PTH123, PTH208

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from ascend_patch.value import Value

BOOTSTRAP_MARK = "ascend_patch"
"""A ``.start`` file that mentions this, or a ``.pth`` file with it and `BOOTSTRAP_SWITCH`, is our bootstrap."""

BOOTSTRAP_SWITCH = "VLLM_ASCEND_AUTOPATCH"

HUAWEI_PCI_VENDOR = "0x19e5"

SOC_BY_PCI_DEVICE: Mapping[str, str] = {
    "0xd100": "Ascend310",
    "0xd500": "Ascend310P",
    "0xd801": "Ascend910",
    "0xd802": "Ascend910B",
    "0xd803": "Ascend910_93",
}
"""PCI device id (vendor 19e5) to SoC family, as the driver's own log collector distinguishes them."""


class Cann(Value):
    """A CANN toolkit: its folder, version ("" when no version file says it), and how it was found."""

    home: str
    version: str
    source: str


class DeviceDecision(Value):
    """``npu``, ``host`` or None (the overlay stays inactive), and why."""

    device: str | None
    reason: str


class BootstrapFile(Value):
    """A ``.pth`` or ``.start`` file that starts the overlay, and the site folder it is in."""

    path: str
    site_dir: str


def device_nodes(dev: str = "/dev") -> list[str]:
    """NPU device nodes, ``/dev/davinci0`` and so on, by number (the manager node is not one)."""
    numbers = sorted(int(name[7:]) for name in _names_in(dev) if name.startswith("davinci") and name[7:].isdigit())
    return [os.path.join(dev, f"davinci{number}") for number in numbers]


def has_npu_device(dev: str = "/dev") -> bool:
    """Whether this process can see an NPU device node."""
    return bool(device_nodes(dev))


def decide_device(setting: str = "auto", dev: str = "/dev") -> DeviceDecision:
    """What the overlay runs on, from ``ASCEND_PATCH_DEVICE`` (``auto``, ``npu`` or ``host``) and the device nodes.

    The CPU is never chosen without being asked for: without an NPU the answer
    to ``auto`` is None, and another vLLM on this machine is left alone.

    Raises:
        ValueError: the setting is none of the three.
    """
    if setting == "host":
        return DeviceDecision(
            "host", "asked for (ASCEND_PATCH_DEVICE or ascend_patch.toml): the CANN on the CPU, hostcann"
        )
    if setting not in ("auto", "npu", ""):
        raise ValueError(f"ASCEND_PATCH_DEVICE={setting!r} is unknown: use auto, npu or host")
    nodes = device_nodes(dev)
    if nodes:
        return DeviceDecision("npu", f"{len(nodes)} NPU device nodes, the first is {nodes[0]}")
    if setting == "npu":
        return DeviceDecision(
            "npu", f"asked for (ASCEND_PATCH_DEVICE or ascend_patch.toml), but {dev} has no davinci device node"
        )
    return DeviceDecision(None, f"{dev} has no davinci device node and ASCEND_PATCH_DEVICE=host is not set")


def inherited_environ(proc: str = "/proc/self/environ") -> Mapping[str, str]:
    """The variables this process was started with, before anything in it changed them.

    ``import ascend_patch`` exports its switch for child processes; who wants to
    know what the user's shell says asks here. Falls back to ``os.environ`` where
    there is no ``/proc``.
    """
    try:
        with open(proc, "rb") as stream:
            entries = stream.read().split(b"\0")
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry)
    return {name: value for name, _, value in pairs}


def find_cann(environ: Mapping[str, str] | None = None, root: str = "/", home: str | None = None) -> Cann | None:
    """The CANN toolkit a process with `environ` would use, or None.

    The variables that CANN's ``set_env.sh`` exports come first; then the
    documented default folders, system-wide before the user's own. A variable
    that points to a missing folder is not skipped: its `Cann` has version "".

    Args:
        environ: environment variables, default those of this process.
        root: what stands for ``/``.
        home: the user's home folder, default from `environ`.
    """
    environ = os.environ if environ is None else environ
    for variable in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        value = environ.get(variable)
        if value:
            return Cann(value, cann_version(value), variable)
    bases = [os.path.join(root, "usr/local/Ascend")]
    user = environ.get("HOME") if home is None else home
    if user:
        bases.append(os.path.join(user, "Ascend"))
    for base in bases:
        dated = sorted((name for name in _names_in(base) if name.startswith("cann-")), key=_version_key, reverse=True)
        for candidate in ("ascend-toolkit/latest", "cann", *dated, "nnae/latest"):
            folder = os.path.join(base, candidate)
            if os.path.isdir(folder):
                return Cann(folder, cann_version(folder), "default folder")
    return None


def cann_version(home: str) -> str:
    """Version of the CANN in `home`, e.g. ``8.5.0`` or ``8.2.RC1``; "" when no file states it."""
    candidates = [os.path.join(home, name) for name in _names_in(home) if name.endswith("-linux")]
    for folder in (*candidates, home):
        for package in ("toolkit", "nnae", "nnrt"):
            version = _field(os.path.join(folder, f"ascend_{package}_install.info"), "version")
            if version:
                return version
    for part in ("runtime", "compiler", "opp"):
        version = _field(os.path.join(home, part, "version.info"), "version_dir")
        if version:
            return version
    name = os.path.basename(os.path.realpath(home))
    return name[5:] if name.startswith("cann-") else ""


def driver_version(root: str = "/") -> str | None:
    """Version of the NPU driver from ``/usr/local/Ascend/driver/version.info``; None without a driver."""
    return _field(os.path.join(root, "usr/local/Ascend/driver/version.info"), "version")


def npu_smi(environ: Mapping[str, str] | None = None, root: str = "/") -> str | None:
    """Path of the ``npu-smi`` tool, from PATH or the places the driver installs it to."""
    environ = os.environ if environ is None else environ
    folders = [folder for folder in environ.get("PATH", "").split(os.pathsep) if folder]
    folders += [os.path.join(root, "usr/local/sbin"), os.path.join(root, "usr/local/bin")]
    for folder in folders:
        candidate = os.path.join(folder, "npu-smi")
        if os.path.isfile(candidate):
            return candidate
    return None


def soc_families(root: str = "/") -> dict[str, int]:
    """SoC families on the PCI bus and how many devices of each, e.g. ``{"Ascend910B": 8}``.

    Huawei accelerators with an unlisted id appear under ``Ascend (PCI 19e5:xxxx)``.
    Other Huawei devices (network cards, storage) are told apart by their PCI class.
    """
    base = os.path.join(root, "sys/bus/pci/devices")
    found: dict[str, int] = {}
    for name in sorted(_names_in(base)):
        folder = os.path.join(base, name)
        if _text(os.path.join(folder, "vendor")).strip().lower() != HUAWEI_PCI_VENDOR:
            continue
        device = _text(os.path.join(folder, "device")).strip().lower()
        family = SOC_BY_PCI_DEVICE.get(device)
        if family is None:
            if not _text(os.path.join(folder, "class")).strip().lower().startswith("0x12"):  # processing accelerator
                continue
            family = f"Ascend (PCI 19e5:{device.removeprefix('0x')})"
        found[family] = found.get(family, 0) + 1
    return found


def bootstrap_files(site_dirs: Iterable[str] | None = None) -> list[BootstrapFile]:
    """The ``.pth`` and ``.start`` files in `site_dirs` that start the overlay.

    The default folders are those of ``sys.path`` that this interpreter would
    read such files from: the ones called site-packages or dist-packages.
    """
    if site_dirs is None:
        site_dirs = [p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")]
    found = []
    for folder in dict.fromkeys(site_dirs):
        for name in sorted(_names_in(folder)):
            if not name.endswith((".pth", ".start")):
                continue
            path = os.path.join(folder, name)
            text = _text(path)
            # A .pth file of an editable install mentions the package as well, but only as a path.
            if BOOTSTRAP_MARK in text and (BOOTSTRAP_SWITCH in text or name.endswith(".start")):
                found.append(BootstrapFile(path, folder))
    return found


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # missing, a zip file, or not ours to read: nothing is installed there
        return []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _field(path: str, key: str) -> str | None:
    """Value of ``key=value`` in an ``.info`` file, the key compared without case."""
    for line in _text(path).splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip().lower() == key and value.strip():
            return value.strip()
    return None


def _version_key(name: str) -> list[tuple[int, str]]:
    """Sort key that puts 8.10 after 8.9 and a release candidate before its release."""
    parts = name.removeprefix("cann-").replace("-", ".").split(".")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
