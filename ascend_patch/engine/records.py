"""Reading the records of a run: which processes there are, what each did, and whether they agree."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ascend_patch.value import Value

from .recording import RUN_VARIABLE, SUFFIX, Recorder, base_folder, current_run, merged, start_ticks
from .vocabulary import State

__all__ = [
    "KEPT_RUNS",
    "RUN_VARIABLE",
    "Agreement",
    "Record",
    "Recorder",
    "Run",
    "current_run",
    "latest",
    "runs",
    "start_ticks",
]

KEPT_RUNS = 10


class Record(Value):
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


class Agreement(Value):
    """Whether the processes of a run patched the package in the same way.

    Attributes:
        differences: one line each, empty when they agree.
    """

    differences: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return not self.differences


class Run(Value):
    """All processes of one run."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The processes, in the order in which they started; unreadable files are left out."""
        found = []
        for path in self.path.glob(f"*{SUFFIX}"):
            try:
                record = Record(path, merged(path.read_bytes()))
                if record.pid and isinstance(record.raw.get("started", 0), (int, float)):
                    found.append(record)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
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


def remove_old_runs() -> None:
    """Remove all but the newest runs; one that still has a living process stays."""
    for run in runs()[KEPT_RUNS:]:
        if not run.alive:
            shutil.rmtree(run.path, ignore_errors=True)
