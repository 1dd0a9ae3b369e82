"""Builds the libraries into the cache: once per sources, compiler and torch, safely from several processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ascend_patch.hostcann._paths import LIBRARIES, HostCannError, Library, cache_root
from ascend_patch.hostcann._plan import Compilation, Plan
from ascend_patch.toolchain import NoCompiler, Toolchain

PARALLEL = 2
"""Compilations at the same time: CI machines have two cores, and a unit that includes ATen needs about 1 GB."""
LOCKS = "locks"
EVERY_BUILD = "every-build"
"""The lock that builds share and that is needed alone to remove what another build may use."""
OBJECT_LIFETIME = 14 * 24 * 3600
"""Seconds after which an object that no build used is removed."""


class Progress:
    """One line on stderr that says which translation unit is done; rewritten in place on a terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()

    def step(self, name: str, seconds: float) -> None:
        with self._lock:
            self._done += 1
            line = f"hostcann: [{self._done}/{self._total}] {name} ({seconds:.1f} s)"
            print(
                f"\r\x1b[K{line}" if self._terminal else line,
                end="" if self._terminal else "\n",
                file=sys.stderr,
                flush=True,
            )

    def finish(self) -> None:
        line = f"hostcann: built {self._total} translation units in {time.monotonic() - self._start:.0f} s"
        print(f"\r\x1b[K{line}" if self._terminal else line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(path: Path, kind: int, other: str) -> Iterator[None]:
    """Hold a lock, fcntl.LOCK_SH or LOCK_EX; while waiting for it, say what the `other` process is doing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"hostcann: waiting for another process that is {other}", file=sys.stderr, flush=True)
            fcntl.flock(file, kind)
        yield


def find() -> Path | None:
    """The folder with libraries built from the present sources, or None.

    Without a compiler, a build by any compiler will do: the cache may come with a container image.
    """
    plan = Plan()
    toolchain = Toolchain.find()
    if toolchain is not None:
        folder = cache_root() / plan.build_key(toolchain)
        return folder if folder.is_dir() else None
    for folder in sorted(cache_root().glob(f"{plan.source_key}-????????")):
        return folder
    return None


def build() -> Path:
    """The folder with the libraries; builds them first if needed.

    Raises HostCannError: no compiler, or a compilation failed (the message names the log).
    """
    found = find()
    if found is not None:
        return found
    try:
        toolchain = Toolchain.require()
    except NoCompiler as error:
        raise HostCannError(f"hostcann is built once with the system's C++ compiler, but {error}") from None
    root = cache_root()
    try:
        plan = Plan()
        target = root / plan.build_key(toolchain)
        # A lock for each build: those of other sources or another torch need not wait, they share whole objects alone.
        with (
            _locked(root / LOCKS / EVERY_BUILD, fcntl.LOCK_SH, "removing files of the build cache"),
            _locked(root / LOCKS / target.name, fcntl.LOCK_EX, "building"),
        ):
            if not target.is_dir():
                _build(plan, toolchain, root, target)
        _prune(root)
        return target
    except PermissionError as error:
        raise HostCannError(
            f"hostcann cannot write its build cache {root} ({error.strerror}); set HOSTCANN_CACHE to a writable folder"
        ) from error


def _build(plan: Plan, toolchain: Toolchain, root: Path, target: Path) -> None:
    objects = root / "objects"
    objects.mkdir(exist_ok=True)
    wanted: dict[Library, list[Path]] = {}
    missing: list[tuple[Compilation, Path]] = []
    for library in plan.units:
        for compilation in plan.compilations(library):
            result = objects / f"{plan.object_key(toolchain, compilation)}.o"
            wanted.setdefault(library, []).append(result)
            if not _in_use_again(result):
                missing.append((compilation, result))
    logs = root / "logs" / target.name
    if missing:
        _compile_all(plan, toolchain, logs, missing)
    staging = Path(tempfile.mkdtemp(prefix="staging-", dir=root))
    try:
        for library in LIBRARIES:
            if library in wanted:
                command = [*toolchain.command, *map(str, wanted[library]), *plan.link_flags(library, staging)]
                _run([*command, "-o", str(staging / library.file)], logs, f"link-{library.name}", library.file)
        (staging / "build.json").write_text(
            json.dumps({"compiler": list(toolchain.command), "torch": str(plan.torch), "time": time.time()}, indent=1)
        )
        staging.chmod(0o755)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _in_use_again(path: Path) -> bool:
    """Whether the object is there and whole; it then counts as used now."""
    try:
        os.utime(path)
        return path.stat().st_size > 0  # the linker takes an empty file for an object without anything in it
    except FileNotFoundError:
        return False


def _compile_all(plan: Plan, toolchain: Toolchain, logs: Path, missing: list[tuple[Compilation, Path]]) -> None:
    # Long ones first: the total time with two workers is then close to half the sum.
    missing.sort(key=lambda item: (not item[0].library.torch, -sum(unit.stat().st_size for unit in item[0].units)))
    progress = Progress(len(missing))
    print(
        f"hostcann: compiling {len(missing)} translation units with {toolchain.command[0]} (once)",
        file=sys.stderr,
        flush=True,
    )

    def compile_one(item: tuple[Compilation, Path]) -> None:
        compilation, result = item
        start = time.monotonic()
        flags = plan.compile_flags(compilation.library, compilation.units[0])
        unity = "".join(f'#include "{unit}"\n' for unit in compilation.units) if len(compilation.units) > 1 else None
        source = ["-x", "c++", "-"] if unity else [str(compilation.units[0])]
        log_name = compilation.name.replace("/", "-").replace("*", "all")
        # Not named by the process: two containers that share the cache have processes of the same number.
        descriptor, name = tempfile.mkstemp(prefix=f"{result.stem}.", suffix=".tmp", dir=result.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            command = [*toolchain.command, *flags, "-c", *source, "-o", name]
            _run(command, logs, log_name, compilation.name, unity)
            temporary.chmod(0o644)
            temporary.replace(result)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        progress.step(compilation.name, time.monotonic() - start)

    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(compile_one, item) for item in missing]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    progress.finish()


def _run(command: list[str], logs: Path, log_name: str, what: str, source: str | None = None) -> None:
    done = subprocess.run(
        command, input=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode == 0:
        return
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{log_name}.log"
    log.write_text(" ".join(command) + "\n\n" + done.stdout)
    first = next((line for line in done.stdout.splitlines() if "error" in line), "no diagnostic")
    raise HostCannError(
        f"hostcann: {command[0]} failed on {what}: {first.strip()}; full output in {log}. "
        "GCC 11 or clang 14 is the oldest that works; set CXX to choose another compiler"
    )


def _prune(root: Path) -> None:
    """Remove objects that no build has used for long, unless a build that may want them is under way."""
    oldest = time.time() - OBJECT_LIFETIME
    with (root / LOCKS / EVERY_BUILD).open("w") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in (root / "objects").glob("*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def clean() -> Path:
    """Removes the whole cache once no build uses it; returns where it was. Builds that start meanwhile wait."""
    root = cache_root()
    locks = root / LOCKS
    if root.is_dir():
        with _locked(locks / EVERY_BUILD, fcntl.LOCK_EX, "building"):
            for path in root.iterdir():
                if path == locks:  # another process may be waiting at one of them
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    return root
