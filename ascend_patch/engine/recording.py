"""Writing this process's record, where the other processes and the command line can read it.

One folder per run, one file of JSON lines per process: the whole record first, then what changed, so
that a patch that comes into force costs one short write and a killed process loses nothing. The run's
id travels to child processes in the environment. Nothing here may make a process fail: a disk that is
full costs the record only.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing.util
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .overlay import Overlay

RUN_VARIABLE = "ASCEND_PATCH_RUN"
SUFFIX = ".jsonl"
MANY_RUNS = 50
"""Processes that end tidy up; from so many runs on, those before were killed, and the next one does it as it starts."""


def base_folder() -> Path:
    """Where the runs are: in the user's runtime folder, or in the temporary one under the user's id."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
        return Path(runtime) / "ascend_patch"
    return Path(tempfile.gettempdir()) / f"ascend_patch-{os.getuid()}"


_started_here: tuple[str, int] | None = None


def current_run() -> tuple[str, bool]:
    """The id of the run this process belongs to, and whether it is the first process in it."""
    global _started_here
    run = os.environ.get(RUN_VARIABLE, "")
    if run and Path(run).name == run and not run.startswith("."):
        return run, _started_here == (run, os.getpid())
    run = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    os.environ[RUN_VARIABLE] = run
    _started_here = (run, os.getpid())
    return run, True


class Recorder:
    """Writes this process's record, whenever something changed and at the end."""

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
        self._written: dict[str, Any] = {}
        self._file = -1
        self._failed = False
        atexit.register(self.finish)
        os.register_at_fork(after_in_child=self._begin_in_child)
        # A process that multiprocessing forks gets its name, and with it its role, only after the fork.
        multiprocessing.util.register_after_fork(self, Recorder._in_child)
        self._safely(self._prepare)

    def changed(self, *ids: str) -> None:
        """Something happened, to these patches or to all: write. Stale aliases wait until every patch is in place."""
        self._safely(lambda: self._write(self._overlay.settled, ids))

    def write(self) -> None:
        """Write a complete record now. Never raises."""
        self._safely(lambda: self._write(complete=True))

    def finish(self) -> None:
        """The last record of this process; the first process of a run also clears old runs away."""
        self.write()
        if self.first:
            self._safely(self._remove_old_runs)

    def _remove_old_runs(self) -> None:
        from .records import remove_old_runs  # reading records is for others to import

        remove_old_runs()

    def _begin_in_child(self) -> None:
        """After a fork the open file is the parent's."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._written = -1, {}
        self.write()

    def _in_child(self) -> None:
        """In a process that multiprocessing made: `atexit` does not run there, and the name is known by now."""
        multiprocessing.util.Finalize(None, self.write, exitpriority=0)
        self.write()

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
        base.chmod(0o700)
        (base / self.run).mkdir(mode=0o700, exist_ok=True)
        if self.first and sum(1 for _ in base.iterdir()) > MANY_RUNS:
            self._remove_old_runs()

    def _write(self, complete: bool, ids: Sequence[str] = ()) -> None:
        if ids and self._written and not complete:
            # One of dozens while the package is imported: what else there is has not changed.
            record = {**self._written, "role": self._role(), "patches": self._patches(False, ids)}
        else:
            record = self._record(complete)
        if self._file < 0:
            path = base_folder() / self.run / f"{os.getpid()}{SUFFIX}"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        news = changes(self._written, record)
        if news:
            os.write(self._file, json.dumps(news).encode() + b"\n")
            self._written = record

    def _record(self, complete: bool = True) -> dict[str, Any]:
        overlay = self._overlay
        return {
            **_process(os.getpid()),
            "role": self._role(),
            "package": overlay.plan.package,
            "version": overlay.plan.version,
            "taken_for": overlay.plan.standing.as_dict() if overlay.plan.standing.reason else {},
            "fingerprint": overlay.fingerprint,
            "strict": overlay.plan.strict,
            "gate_passed": overlay.gate_passed,
            "patches": self._patches(complete),
            **self._facts(),
        }

    def _patches(self, complete: bool, ids: Sequence[str] = ()) -> dict[str, Any]:
        """The patches' entries; only `ids` are looked at anew, when there are any."""
        patches = dict(self._written["patches"]) if ids else {}
        for status in self._overlay.status(*ids, aliases=complete):
            entry = {key: value for key, value in status.as_dict().items() if value and key != "id"}
            patches[status.id] = entry | {"state": status.state.value}
        return patches


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a record that are new or different; of its patches likewise, each as a whole."""
    news = {key: value for key, value in new.items() if key != "patches" and old.get(key, ...) != value}
    known = old.get("patches", {})
    # Most are the very same; only others have to be compared.
    others = {id: entry for id, entry in new["patches"].items() if known.get(id) is not entry}
    patches = {id: entry for id, entry in others.items() if known.get(id) != entry}
    return news | ({"patches": patches} if patches else {})


def merged(lines: bytes) -> dict[str, Any]:
    """The record that a file's lines make together; a last line that is only half written is not counted.

    Raises:
        ValueError: there is no complete line, or one that is not JSON.
    """
    whole, _, _ = lines.rpartition(b"\n")
    first, *others = [json.loads(line) for line in whole.split(b"\n")]
    record: dict[str, Any] = first
    for news in others:
        patches = record.get("patches", {}) | news.get("patches", {})
        record |= news | {"patches": patches}
    return record


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when unknown. Tells a pid from its reuse."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


@cache
def _process(pid: int) -> dict[str, Any]:
    """What does not change while this process lives."""
    ticks = start_ticks(pid)
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0
    return {
        "pid": pid,
        "ticks": ticks,
        "started": round(time.time() - age, 1),  # seconds since the epoch
        "command": list(sys.orig_argv),
        "python": sys.version.split()[0],
    }
