"""Set up everything the demo and the tests need, in `.venv` inside the checkout.

    python3.11 scripts/setup.py [--for demo|test] [--torch-index URL]

It may be interrupted and started again: finished steps are not repeated. Nothing outside the checkout
is written except the cache ($XDG_CACHE_HOME/ascend_patch: the built vLLM wheel, the compiled host CANN,
the model), and the cache may be deleted at any time.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        f"Python {platform.python_version()} is too old: vLLM 0.32.0 needs 3.11 or newer. "
        "Install Python 3.11 and run `make PYTHON=python3.11 demo`."
    )

import demo_model
from progress import Progress, SetupError, format_seconds

CHECKOUT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
TORCH_NPU = "2.13.0"
VLLM = "0.32.0"
NEWEST_PYTHON = (3, 13)
# PyTorch's own index: where the package index gives the CUDA build of torch, the CPU build is here.
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
VLLM_BUILD_TOOLS = [
    "setuptools>=77", "setuptools-scm>=8", "setuptools-rust>=1.9", "cmake>=3.26", "ninja", "jinja2", "packaging",
    "regex", "wheel", "numpy",
]  # fmt: skip
FREE_DISK_GB = 6.0


@dataclass
class Setup:
    """One run: where the environment is and which steps an earlier run has finished."""

    venv: Path
    torch_index: str | None
    purpose: str
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


def check_machine(setup: Setup) -> None:
    """Find out now what would otherwise fail after minutes."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise SetupError(
            f"{platform.system()} on {platform.machine()}: torch-npu exists for Linux on x86-64 and aarch64 only."
        )
    if sys.version_info[:2] > NEWEST_PYTHON:
        raise SetupError(
            f"Python {platform.python_version()} is newer than torch-npu {TORCH_NPU} supports: install Python 3.11 "
            "and run `make PYTHON=python3.11 ...`."
        )
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), "")
    if not compiler or not shutil.which(compiler.split()[0]):
        raise SetupError(
            f"No C++ compiler found{f' (CXX={compiler})' if compiler else ''}: hostcann is compiled on this machine. "
            "Install one (Debian, Ubuntu: apt install g++; openEuler, Fedora: dnf install gcc-c++) or set CXX."
        )
    missing = not setup.stamps().get("vllm")
    free = shutil.disk_usage(CHECKOUT).free / 1e9
    if missing and free < FREE_DISK_GB:
        raise SetupError(f"{free:.1f} GB free at {CHECKOUT}, about {FREE_DISK_GB:.0f} GB are needed: free some space.")


def make_venv(setup: Setup) -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(setup.venv)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        reason = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise SetupError(
            f"Cannot create a virtual environment: {reason[-1]}\nIf Python's venv module is missing, install it "
            "(Debian, Ubuntu: apt install python3.11-venv)."
        )


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


def gives_cuda_build(setup: Setup) -> bool:
    """Ask pip which torch the configured index gives, without installing it."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        setup.pip(
            "install", "--dry-run", "--ignore-installed", "--no-deps", "--report", report.name, f"torch=={TORCH}"
        )  # fmt: skip
        metadata = json.loads(Path(report.name).read_text())["install"][0]["metadata"]
    return any(need.lower().startswith(("nvidia", "cuda")) for need in metadata.get("requires_dist", []))


def install_torch(setup: Setup) -> None:
    index = setup.torch_index or (PYTORCH_CPU_INDEX if gives_cuda_build(setup) else None)
    where = ["--index-url", index] if index else []
    try:
        setup.pip("install", *where, f"torch=={TORCH}")
    except SetupError as problem:
        if not index:
            raise
        raise SetupError(
            f"{problem}\nThe CPU build of torch was looked for at {index}; --torch-index names another."
        ) from problem


def install_torch_npu(setup: Setup) -> None:
    setup.pip("install", f"torch-npu=={TORCH_NPU}", f"torch=={TORCH}")


def vllm_wheel_folder() -> Path:
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}"
    return demo_model.cache_dir() / "wheels" / f"vllm-{VLLM}-empty-{tag}"


def build_vllm(setup: Setup) -> None:
    """Build vLLM's sdist without kernels. The finished wheel appears in the cache at once or not at all."""
    setup.pip("install", *VLLM_BUILD_TOOLS)
    folder = vllm_wheel_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = {
        "VLLM_TARGET_DEVICE": "empty",
        # Without these the version gets a suffix and pip refuses it as inconsistent.
        "VLLM_VERSION_OVERRIDE": VLLM,
        "SETUPTOOLS_SCM_PRETEND_VERSION": VLLM,
        # Build tools that pip installed into the environment have to be found.
        "PATH": f"{setup.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        made = Path(scratch) / "wheel"
        setup.pip(
            "wheel", "--no-deps", "--no-build-isolation", "--no-binary", "vllm", "--wheel-dir", str(made),
            f"vllm=={VLLM}", extra=building,
        )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def install_vllm(setup: Setup) -> None:
    wheel = next(vllm_wheel_folder().glob("vllm-*.whl"))
    setup.pip("install", str(wheel), f"torch=={TORCH}")


def install_overlay(setup: Setup) -> None:
    extras = "demo,dev" if setup.purpose == "test" else "demo"
    setup.pip("install", "--editable", f"{CHECKOUT}[{extras}]")


def build_hostcann(setup: Setup) -> None:
    setup.progress.run([str(setup.python), "-m", "ascend_patch.hostcann", "build"], setup.environment)


def convert_model(setup: Setup) -> None:
    setup.progress.run([str(setup.python), str(CHECKOUT / "scripts" / "demo_model.py")], setup.environment)


def plan(setup: Setup) -> list[Step]:
    """The steps in order. A step is repeated when its key, or that of one before it, has changed."""
    interpreter = digest(sys.version, str(setup.venv))
    torch = digest(interpreter, TORCH, setup.torch_index or "")
    npu = digest(torch, TORCH_NPU)
    vllm = digest(npu, VLLM)
    overlay = digest(vllm, CHECKOUT / "pyproject.toml", CHECKOUT / "packaging")
    if setup.purpose == "test":
        tools = "test"
    else:
        # The demo needs less than the tests: an environment made for the tests will do.
        tools = "test" if setup.stamps().get("overlay") == digest(overlay, "test") else "demo"
    hostcann = digest(torch, npu, CHECKOUT / "ascend_patch" / "hostcann")
    has_wheel = any(vllm_wheel_folder().glob("vllm-*.whl"))
    return [
        Step("venv", f"virtual environment, Python {platform.python_version()}", interpreter, make_venv, venv_works),
        Step("torch", f"torch {TORCH}, CPU build", torch, install_torch),
        Step("torch-npu", f"torch-npu {TORCH_NPU}", npu, install_torch_npu),
        Step("vllm-wheel", f"stock vLLM {VLLM}: build without kernels (minutes, once)", vllm, build_vllm,
             lambda setup: has_wheel or setup.stamps().get("vllm") == vllm),
        Step("vllm", f"stock vLLM {VLLM} and what it needs", vllm, install_vllm),
        Step("overlay", "ascend-patch (editable)", digest(overlay, tools), install_overlay),
        Step("hostcann", "hostcann, the CANN for the CPU: compile (minutes, once)", hostcann, build_hostcann),
        Step("model", "SmolLM2-135M-Instruct", "", convert_model, lambda _: demo_model.is_ready()),
    ]  # fmt: skip


def perform(setup: Setup) -> None:
    steps = plan(setup)
    stamps = setup.stamps()
    interrupted = "unfinished" in stamps and setup.python.exists()
    ready = {step.name: step.ready(setup) if step.ready else stamps.get(step.name) == step.key for step in steps}
    if not ready["venv"]:
        # Whatever was installed goes with the old environment; the cache stays.
        ready = {name: done and name in ("vllm-wheel", "model") for name, done in ready.items()}
    if all(ready.values()):
        print("Everything is set up.", flush=True)
        return
    setup.progress = Progress(len(steps), setup.venv / "setup.log")
    print(f"Setting up {setup.venv} (log: {setup.progress.log_file})", flush=True)
    for step in steps:
        if ready[step.name]:
            setup.progress.skip(step.title)
            continue
        with setup.progress.step(step.title):
            if interrupted and step.name != "venv":
                drop_half_installed(setup)
                interrupted = False
            if step.name != "venv":
                setup.stamp("unfinished", step.name)
            step.action(setup)
            setup.stamp(step.name, step.key)
    finished = setup.stamps()
    finished.pop("unfinished", None)
    setup.stamp_file.write_text(json.dumps(finished, indent=1) + "\n")
    print(f"Set up in {format_seconds(time.monotonic() - setup.progress.begun)}.", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--for", dest="purpose", choices=("demo", "test"), default="test")
    parser.add_argument("--venv", type=Path, default=CHECKOUT / ".venv", help="the environment (default: .venv)")
    parser.add_argument(
        "--torch-index",
        default=os.environ.get("ASCEND_PATCH_TORCH_INDEX"),
        help="index to take torch's CPU build from (also: ASCEND_PATCH_TORCH_INDEX)",
    )
    arguments = parser.parse_args()
    setup = Setup(arguments.venv.absolute(), arguments.torch_index, arguments.purpose)
    lock = os.open(CHECKOUT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is running in this checkout; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        check_machine(setup)
        perform(setup)
    except SetupError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where this one stopped.", file=sys.stderr)
        return 130
    finally:
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
