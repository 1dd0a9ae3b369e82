"""What every build does around its compiler: locks, staging folders, running commands, the cache."""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ascend_patch import cache
from ascend_patch.kernels.building import BuildError
from ascend_patch.toolchain import NoCompiler, Toolchain

TIMEOUT = 600
"""Seconds for one run of a compiler."""


def cache_folder() -> Path:
    """Where kernels built just in time are kept."""
    return cache.root() / "kernels"


def compiler() -> Toolchain:
    """The system's C++ compiler.

    Raises:
        BuildError: there is none.
    """
    try:
        return Toolchain.require()
    except NoCompiler as error:
        raise BuildError(f"no C++ compiler: {error}") from None


def announce(text: str) -> None:
    """One line on standard error before something slow."""
    print(f"ascend_patch kernels: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Holds what is called `name` in a folder against other processes and threads; makes the folder if need be.

    Raises:
        BuildError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{name}.lock").open("w")
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be written ({error.strerror}): set XDG_CACHE_HOME to another folder"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to build in; it becomes `target` when the body ends well and disappears otherwise."""
    staging = Path(tempfile.mkdtemp(prefix="staging-", dir=target.parent))
    try:
        yield staging
        staging.chmod(0o755)
        if target.is_dir():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def run(command: Sequence[str], what: str, source: str | None = None) -> str:
    """Runs a compiler; returns what it printed.

    Raises:
        BuildError: it cannot be started, takes too long or fails; the message holds its first error.
    """
    try:
        done = subprocess.run(
            command, input=source, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} took more than {TIMEOUT} s on {what}") from None
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).splitlines()
        first = next(
            (line.strip() for line in lines if "error" in line), lines[0].strip() if lines else "no diagnostic"
        )
        raise BuildError(f"{command[0]} failed on {what}: {first} (command: {shlex.join(command)})")
    return done.stdout


def version_line(compiler: str) -> str:
    """The first line of ``compiler --version``."""
    return run([compiler, "--version"], "--version").partition("\n")[0].strip()
