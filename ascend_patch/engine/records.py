"""What each process of a run did, written where the others and the command line can read it.

One folder per run, one JSON file per process. The run's id travels to child processes in the
environment. Nothing here may make a process fail: a disk that is full costs the record only.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing.util
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .overlay import Overlay
from .vocabulary import State

RUN_VARIABLE = "ASCEND_PATCH_RUN"
KEPT_RUNS = 10
_MIN_SECONDS_BETWEEN_WRITES = 0.5


def base_folder() -> Path:
    """Where the runs are: in the user's runtime folder, or in the temporary one under the user's id."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK):
        return Path(runtime) / "ascend_patch"
    return Path(tempfile.gettempdir()) / f"ascend_patch-{os.getuid()}"


def current_run() -> tuple[str, bool]:
    """The id of the run this process belongs to, and whether it is the first process in it."""
    run = os.environ.get(RUN_VARIABLE, "")
    if run and os.path.basename(run) == run and not run.startswith("."):
        return run, False
    run = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    os.environ[RUN_VARIABLE] = run
    return run, True


class Recorder:
    """Writes this process's record: at once when something important changed, otherwise now and then."""

    def __init__(self, overlay: Overlay, *, role: Callable[[], str], facts: Callable[[], Mapping[str, Any]]) -> None:
        """Prepare the run's folder.

        Args:
            role: what this process is, in one word; asked again at each write.
            facts: further entries of the record (versions, device).
        """
        self.run, self.first = current_run()
        self._overlay = overlay
        self._role = role
        self._facts = facts
        self._last = ""
        self._last_time = 0.0
        self._failed = False
        atexit.register(self.write)
        os.register_at_fork(after_in_child=self.write)
        # A process that multiprocessing forks gets its name, and with it its role, only after the fork.
        multiprocessing.util.register_after_fork(self, Recorder.write)
        self._safely(self._prepare)

    def changed(self) -> None:
        """Something happened: write, unless a record was written just now and more is to come."""
        recently = time.monotonic() - self._last_time < _MIN_SECONDS_BETWEEN_WRITES
        if not recently or self._overlay.settled or self._overlay.gate_passed:
            self.write()

    def write(self) -> None:
        """Write the record now. Never raises."""
        self._safely(self._write)

    def _safely(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception:  # a record is never worth a process
            self._failed = True

    def _prepare(self) -> None:
        base = base_folder()
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(base)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{base} is not ours")
        os.chmod(base, 0o700)
        (base / self.run).mkdir(mode=0o700, exist_ok=True)
        if self.first:
            _remove_old_runs(base)

    def _write(self) -> None:
        folder = base_folder() / self.run
        self._last_time = time.monotonic()
        text = json.dumps(self._record())
        path = folder / f"{os.getpid()}.json"
        if text == self._last and path.exists():
            return
        temporary = folder / f".{os.getpid()}.tmp"
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
        self._last = text

    def _record(self) -> dict[str, Any]:
        overlay = self._overlay
        patches = {}
        for status in overlay.status():
            entry = {key: value for key, value in asdict(status).items() if value and key != "id"}
            patches[status.id] = entry | {"state": status.state.value}
        return {
            "pid": os.getpid(),
            "ticks": start_ticks(os.getpid()),
            "started": _started_at(),
            "role": self._role(),
            "command": list(sys.orig_argv),
            "python": sys.version.split()[0],
            "package": overlay.plan.package,
            "version": overlay.plan.version,
            "fingerprint": overlay.fingerprint,
            "strict": overlay.plan.strict,
            "gate_passed": overlay.gate_passed,
            "patches": patches,
            **self._facts(),
        }


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when unknown. Tells a pid from its reuse."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def _started_at() -> float:
    """Seconds since the epoch at which this process started."""
    ticks = start_ticks(os.getpid())
    if not ticks:
        return time.time()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return round(time.time() - age, 1)


@dataclass(frozen=True)
class Record:
    """One process's record, as read."""

    path: Path
    raw: Mapping[str, Any]

    @property
    def pid(self) -> int:
        return int(self.raw["pid"])

    @property
    def role(self) -> str:
        return str(self.raw.get("role", ""))

    @property
    def version(self) -> str:
        return str(self.raw.get("version", ""))

    @property
    def fingerprint(self) -> str:
        return str(self.raw.get("fingerprint", ""))

    @property
    def patches(self) -> Mapping[str, Mapping[str, Any]]:
        return dict(self.raw.get("patches", {}))

    @property
    def alive(self) -> bool:
        """Whether that process still runs."""
        ticks = start_ticks(self.pid)
        return bool(ticks) and ticks == self.raw.get("ticks")

    def __getattr__(self, name: str) -> Any:
        try:
            return self.raw[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Agreement:
    """Whether the processes of a run patched the package in the same way.

    Attributes:
        differences: one line each, empty when they agree.
    """

    differences: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return not self.differences


@dataclass(frozen=True)
class Run:
    """All processes of one run."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The processes, in the order in which they started; unreadable files are left out."""
        found = []
        for path in self.path.glob("*.json"):
            try:
                record = Record(path, json.loads(path.read_bytes()))
                if record.pid and isinstance(record.raw.get("started", 0), (int, float)):
                    found.append(record)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return tuple(sorted(found, key=lambda record: (record.raw.get("started", 0), record.pid)))

    @property
    def alive(self) -> bool:
        return any(record.alive for record in self.records)

    def agreement(self) -> Agreement:
        """Compare every process with the first one."""
        if not self.records:
            return Agreement(())
        first, *others = self.records
        return Agreement(tuple(line for other in others for line in _differences(first, other)))


def _differences(first: Record, other: Record) -> list[str]:
    ours, theirs = f"{first.role} ({first.pid})", f"{other.role} ({other.pid})"
    lines = []
    if first.version != other.version:
        lines.append(f"{ours} runs version {first.version}, {theirs} runs {other.version}")
    for id in sorted(first.patches.keys() | other.patches.keys()):
        here, there = _verdict(first, id), _verdict(other, id)
        if here != there:
            lines.append(f"{id} is {here} in {ours} and {there} in {theirs}")
    if not lines and first.fingerprint != other.fingerprint:
        lines.append(f"{ours} and {theirs} took the same patches from different source files")
    return lines


def _verdict(record: Record, id: str) -> str:
    """The state as far as processes must agree on it: which modules a process has imported is its own affair."""
    state = str(record.patches.get(id, {}).get("state", "unknown"))
    return "in force" if state in (State.PENDING.value, State.APPLIED.value) else state


def runs() -> list[Run]:
    """The recorded runs, newest first."""
    base = base_folder()
    if not base.is_dir():
        return []
    return [Run(path) for path in sorted(base.iterdir(), reverse=True) if path.is_dir()]


def latest() -> Run | None:
    """The newest run that has a record."""
    return next((run for run in runs() if run.records), None)


def _remove_old_runs(base: Path) -> None:
    for run in runs()[KEPT_RUNS:]:
        if not run.alive:
            shutil.rmtree(run.path, ignore_errors=True)
