"""`status`: the records of a run's processes, made up here as the engine writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ascend_patch.engine.records import start_ticks

from .conftest import Toy

GOOD = {"device.where": {"state": "applied"}, "math.add": {"state": "applied"}, "math.old": {"state": "skipped"}}


class Runs:
    """A folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(
        self,
        run: str,
        pid: int,
        patches: dict[str, dict[str, object]],
        role: str = "main",
        fingerprint: str = "f" * 64,
        alive: bool = False,
        taken_for: dict[str, str] | None = None,
    ) -> None:
        pid = os.getpid() if alive else pid
        record = {
            "pid": pid, "ticks": start_ticks(pid) if alive else 1, "started": float(pid), "role": role,
            "command": ["python", "job.py"], "python": "3.11.7", "package": "gadget", "version": "1.5.0",
            "fingerprint": fingerprint, "device": "host", "patches": patches,
            "taken_for": taken_for or {},
        }  # fmt: skip
        place = self.folder / run
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{pid}.jsonl").write_text(json.dumps(record) + "\n")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """No run is recorded yet."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    return Runs(runtime / "ascend_patch")


def test_no_run_is_refused_with_what_to_do(toy: Toy, runs: Runs) -> None:
    assert "ascend-patch run" in toy("status").refused()


def test_processes_that_agree(toy: Toy, runs: Runs) -> None:
    runs.process("20260101T000000-1", 99999991, GOOD)
    runs.process("20260101T000000-1", 99999992, GOOD, role="engine-core")
    result = toy("status")
    assert result.code == 0
    assert "2 processes, all with the same patches" in result.out
    rows = [line.split() for line in result.out.splitlines() if line.startswith("9999999")]
    assert [row[:4] for row in rows] == [["99999991", "main", "no", "2"], ["99999992", "engine-core", "no", "2"]]


def test_json_keys(toy: Toy, runs: Runs) -> None:
    runs.process("r1", 99999991, GOOD)
    (run,) = toy("status", "--json").json["runs"]
    assert set(run) == {"id", "alive", "agrees", "differences", "ok", "processes"}
    (process,) = run["processes"]
    assert set(process) == {
        "pid", "role", "alive", "started", "command", "device", "python", "package", "version", "fingerprint",
        "patches", "taken_for",
    }  # fmt: skip
    assert process["taken_for"] is None
    assert process["patches"]["device.where"]["state"] == "applied"


def test_what_the_version_was_taken_for_and_what_is_not_needed(toy: Toy, runs: Runs) -> None:
    reason = "gadget 3.0.0 is outside the versions these patches name"
    patches = {
        **GOOD,
        "device.where": {"state": "skipped", "unneeded": True, "reason": "not needed: it asks the device"},
    }
    for pid in (99999991, 99999992):
        runs.process("r1", pid, patches, taken_for={"version": "1.5.0", "reason": reason})
    result = toy("status")
    assert result.code == 0  # a required patch that is not needed is not missing
    assert result.out.count(reason) == 1
    assert result.out.count("device.where: not needed: it asks the device") == 1
    row = next(line.split() for line in result.out.splitlines() if line.startswith("99999991"))
    assert row[3:8] == ["1", "0", "1", "1", "0"]  # applied, pending, off, not needed, wrong
    (process, _) = toy("status", "--json").json["runs"][0]["processes"]
    assert process["taken_for"] == {"version": "1.5.0", "reason": reason}


def test_a_disagreement_is_exit_1_and_named(toy: Toy, runs: Runs) -> None:
    runs.process("r1", 99999991, GOOD)
    runs.process("r1", 99999992, {**GOOD, "math.add": {"state": "disabled"}}, role="worker")
    result = toy("status")
    assert result.code == 1
    assert "do not agree" in result.out and "math.add" in result.out and "worker" in result.out


@pytest.mark.parametrize(
    ("patch_id", "state", "code"),
    [
        ("math.add", "failed", 1),
        ("math.add", "rolled-back", 1),
        ("math.add", "drifted", 0),  # optional: a warning, not a failure
        ("math.add", "disabled", 0),
        ("device.where", "drifted", 1),
        ("device.where", "disabled", 1),
        ("device.where", "pending", 0),
    ],
)
def test_what_counts_as_a_failure(toy: Toy, runs: Runs, patch_id: str, state: str, code: int) -> None:
    runs.process("r1", 99999991, {**GOOD, patch_id: {"state": state, "reason": "because"}})
    result = toy("status")
    assert result.code == code
    assert toy("status", "--json").json["runs"][0]["ok"] is (code == 0)


def test_early_importers_and_stale_aliases_are_named(toy: Toy, runs: Runs) -> None:
    entry = {"state": "applied", "early_importers": ["job.py"], "stale_aliases": ["helpers.add"]}
    runs.process("r1", 99999991, {**GOOD, "math.add": entry})
    result = toy("status")
    assert result.code == 0
    assert "math.add: imported before the overlay by job.py" in result.out
    assert "math.add: upstream's object is still bound at helpers.add" in result.out


def test_the_last_run_is_shown_unless_an_older_one_still_runs(toy: Toy, runs: Runs) -> None:
    runs.process("20260101T000000-1", 1, GOOD, alive=True)
    runs.process("20260102T000000-2", 99999992, GOOD)
    assert toy("status", "--json").json["runs"][0]["id"] == "20260101T000000-1"
    assert "running" in toy("status").out
    (runs.folder / "20260101T000000-1" / f"{os.getpid()}.jsonl").unlink()
    assert toy("status", "--json").json["runs"][0]["id"] == "20260102T000000-2"


def test_one_run_or_all(toy: Toy, runs: Runs) -> None:
    runs.process("20260101T000000-1", 99999991, {**GOOD, "math.add": {"state": "failed"}})
    runs.process("20260102T000000-2", 99999992, GOOD)
    assert toy("status", "--run", "20260101T000000-1").code == 1
    everything = toy("status", "--all", "--json")
    assert [run["id"] for run in everything.json["runs"]] == ["20260102T000000-2", "20260101T000000-1"]
    assert everything.code == 0  # the newest counts
    assert "20260101T000000-1" in toy("status", "--all").out


def test_refusals(toy: Toy, runs: Runs) -> None:
    runs.process("20260101T000000-1", 99999991, GOOD)
    assert "did you mean 20260101T000000-1?" in toy("status", "--run", "20260101T000000-2").refused()
    assert "leave out one" in toy("status", "--run", "x", "--all").refused()
