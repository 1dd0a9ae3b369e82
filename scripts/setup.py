"""Set up everything the demo and the tests need.

    python3.11 scripts/setup.py [--for demo|test] [--vllm VERSION] [--torch-index URL]

The default vLLM lives in `.venv` inside the checkout. Another version (its torch, torch-npu and transformers: the
extras in pyproject.toml) is installed into the cache, once for all checkouts, and `.venv-VERSION` inside the
checkout adds the overlay and the test tools to it.

It may be interrupted and started again: finished steps are not repeated. Nothing outside the checkout
is written except the cache ($XDG_CACHE_HOME/ascend_patch: the built vLLM wheels, environments of other vLLM
versions, the compiled host CANN, the model), and the cache may be deleted at any time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        f"Python {platform.python_version()} is too old: vLLM 0.32.0 needs 3.11 or newer. "
        "Install Python 3.11 and run `make PYTHON=python3.11 demo`."
    )

import demo_model
import setup_steps as steps
import stacks
from progress import Progress, SetupError, format_seconds
from setup_steps import Setup, Step, digest
from stacks import CHECKOUT

NEWEST_PYTHON = (3, 13)
FREE_DISK_GB = 6.0


def check_machine(setup: Setup) -> None:
    """Find out now what would otherwise fail after minutes."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise SetupError(
            f"{platform.system()} on {platform.machine()}: torch-npu exists for Linux on x86-64 and aarch64 only."
        )
    if sys.version_info[:2] > NEWEST_PYTHON:
        raise SetupError(
            f"Python {platform.python_version()} is newer than torch-npu {setup.stack.torch_npu} supports: "
            "install Python 3.11 and run `make PYTHON=python3.11 ...`."
        )
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), "")
    if not compiler or not shutil.which(compiler.split()[0]):
        raise SetupError(
            f"No C++ compiler found{f' (CXX={compiler})' if compiler else ''}: hostcann is compiled on this machine. "
            "Install one (Debian, Ubuntu: apt install g++; openEuler, Fedora: dnf install gcc-c++) or set CXX."
        )
    missing = not setup.stamps().get("vllm")
    folder = setup.venv.parent
    free = shutil.disk_usage(folder).free / 1e9
    if missing and free < FREE_DISK_GB:
        raise SetupError(f"{free:.1f} GB free at {folder}, about {FREE_DISK_GB:.0f} GB are needed: free some space.")


def stock_steps(setup: Setup) -> list[Step]:
    """torch, torch-npu and stock vLLM, in order. A step is repeated when its key, or that of one before it, changed."""
    stack = setup.stack
    interpreter = digest(sys.version, str(setup.venv))
    torch = digest(interpreter, stack.torch, setup.torch_index or "")
    npu = digest(torch, stack.torch_npu)
    vllm = digest(npu, stack.vllm)
    has_wheel = any(steps.vllm_wheel_folder(stack.vllm).glob("vllm-*.whl"))
    python = f"virtual environment, Python {platform.python_version()}"
    return [
        Step("venv", python, interpreter, steps.make_venv, steps.venv_works),
        Step("torch", f"torch {stack.torch}", torch, steps.install_torch),
        Step("torch-npu", f"torch-npu {stack.torch_npu}", npu, steps.install_torch_npu),
        Step("vllm-wheel", f"stock vLLM {stack.vllm}: build without kernels (minutes, once)", vllm, steps.build_vllm,
             lambda setup: has_wheel or setup.stamps().get("vllm") == vllm),
        Step("vllm", f"stock vLLM {stack.vllm} and what it needs", vllm, steps.install_vllm),
    ]  # fmt: skip


def layer_step(setup: Setup) -> Step:
    """The environment in the checkout that sees everything of the one in the cache."""
    key = digest(sys.version, str(setup.venv), str(setup.base))
    return Step("venv", "virtual environment in the checkout", key, steps.make_layer,
                lambda setup: steps.venv_works(setup) and setup.stamps().get("venv") == key)  # fmt: skip


def overlay_steps(setup: Setup, before: Sequence[Step]) -> list[Step]:
    """The overlay and its device, on top of the steps `before`."""
    stock = {step.name: step.key for step in before}
    vllm = stock.get("vllm", stock["venv"])
    overlay = digest(vllm, CHECKOUT / "pyproject.toml", CHECKOUT / "packaging")
    tools = f"test {steps.ENCODER}"
    # The demo needs less than the tests: an environment made for the tests will do.
    if setup.purpose != "test" and setup.stamps().get("overlay") != digest(overlay, tools):
        tools = "demo"
    sources = CHECKOUT / "kernels"
    kernels = digest(stock.get("torch", vllm), *sorted(sources.glob("*/*.cpp")), sources / "host")
    hostcann = digest(stock.get("torch", vllm), stock.get("torch-npu", ""), CHECKOUT / "ascend_patch" / "hostcann")
    return [
        Step("overlay", "ascend-patch (editable)", digest(overlay, tools), steps.install_overlay),
        Step("hostcann", "hostcann, the CANN for the CPU: compile (minutes, once)", hostcann, steps.build_hostcann),
        Step("kernels", "AscendC kernels for the CPU: compile", kernels, steps.build_kernels),
        Step("model", "SmolLM2-135M-Instruct", "", steps.convert_model, lambda _: demo_model.is_ready()),
    ]


def perform(setup: Setup, todo: Sequence[Step]) -> None:
    stamps = setup.stamps()
    interrupted = "unfinished" in stamps and setup.python.exists()
    ready = {step.name: step.ready(setup) if step.ready else stamps.get(step.name) == step.key for step in todo}
    if not ready["venv"]:
        # Whatever was installed goes with the old environment; the cache stays.
        ready = {name: done and name in ("vllm-wheel", "model") for name, done in ready.items()}
    if all(ready.values()):
        print(f"{setup.venv}: everything is set up.", flush=True)
        return
    setup.progress = Progress(len(todo), setup.venv / "setup.log")
    print(f"Setting up {setup.venv} (log: {setup.progress.log_file})", flush=True)
    for step in todo:
        if ready[step.name]:
            setup.progress.skip(step.title)
            continue
        with setup.progress.step(step.title):
            if interrupted and step.name != "venv":
                steps.drop_half_installed(setup)
                interrupted = False
            if step.name != "venv":
                setup.stamp("unfinished", step.name)
            step.action(setup)
            setup.stamp(step.name, step.key)
    finished = setup.stamps()
    finished.pop("unfinished", None)
    setup.stamp_file.write_text(json.dumps(finished, indent=1) + "\n")
    print(f"Set up in {format_seconds(time.monotonic() - setup.progress.begun)}.", *setup.notes, sep="\n", flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One set-up at a time for a folder, or for what a lock file stands for."""
    lock = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another set-up is running ({path}); waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def set_up(arguments: argparse.Namespace) -> None:
    stack = stacks.find(arguments.vllm)
    venv = arguments.venv or CHECKOUT / (".venv" if stack.is_default else f".venv-{stack.vllm}")
    setup = Setup(venv.absolute(), stack, arguments.torch_index, arguments.purpose)
    if stack.is_default:
        with locked(CHECKOUT):
            check_machine(setup)
            stock = stock_steps(setup)
            perform(setup, [*stock, *overlay_steps(setup, stock)])
        return
    folder = demo_model.cache_dir() / "environments"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = digest(sys.version, platform.machine(), *steps.VLLM_BUILD_TOOLS, steps.RECIPE)
    shared = Setup(folder / stack.folder_name(recipe), stack, arguments.torch_index, arguments.purpose)
    with locked(shared.venv.with_name(f"{shared.venv.name}.lock")):
        check_machine(shared)
        perform(shared, stock_steps(shared))
    setup.base = shared.venv
    with locked(CHECKOUT):
        layer = layer_step(setup)
        perform(setup, [layer, *overlay_steps(setup, [layer])])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--for", dest="purpose", choices=("demo", "test"), default="test")
    parser.add_argument("--vllm", default=stacks.DEFAULT_VLLM, help="the release (default: %(default)s)")
    parser.add_argument("--venv", type=Path, help="the environment (default: .venv, for another vLLM .venv-VERSION)")
    parser.add_argument(
        "--torch-index",
        default=os.environ.get("ASCEND_PATCH_TORCH_INDEX"),
        help="index to take torch's CPU build from (also: ASCEND_PATCH_TORCH_INDEX)",
    )
    try:
        set_up(parser.parse_args())
    except (SetupError, stacks.UnknownVersion) as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where this one stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
