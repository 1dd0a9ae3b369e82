"""Records: written by every process of a run, harmless to it, compared across processes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ascend_patch.engine import recording, records
from ascend_patch.engine.overlay import Overlay
from ascend_patch.engine.vocabulary import Patch, Replace, Variant

if TYPE_CHECKING:
    from conftest import Toy

GREET = Patch("toy.greet", "because", (Variant(">=1,<2", (Replace("toy.core:greet", by=":greet"),)),))
LIMIT = Patch("toy.limit", "because", (Variant(">=1,<2", (Replace("toy.core:LIMIT", by=":LIMIT"),)),))


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runtime folder and no run inherited; nothing is registered for this process's exit or forks."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.delenv(records.RUN_VARIABLE, raising=False)
    monkeypatch.setattr(recording.atexit, "register", lambda _: None)
    monkeypatch.setattr(recording.os, "register_at_fork", lambda **_: None)
    monkeypatch.setattr(recording.multiprocessing.util, "register_after_fork", lambda *_: None)
    return folder


def recorder(overlay: Overlay, role: str = "main") -> records.Recorder:
    return records.Recorder(overlay, role=lambda: role, facts=lambda: {"device": "host"})


def test_a_record_says_what_happened(toy: Toy, runtime: Path) -> None:
    overlay = toy.overlay(GREET)
    writer = recorder(overlay)
    overlay.on_change = writer.changed
    overlay.install()
    (record,) = records.latest().records  # type: ignore[union-attr]
    assert record.patches["toy.greet"] == {"state": "pending", "pending": ["toy.core"]}
    toy.module("toy.core")
    run = records.latest()
    assert run is not None and run.id == os.environ[records.RUN_VARIABLE]
    (record,) = run.records
    assert record.patches["toy.greet"] == {"state": "applied", "applied": ["toy.core"]}
    assert (record.pid, record.role, record.version, record.device) == (os.getpid(), "main", "1.0", "host")
    assert record.fingerprint == overlay.fingerprint and record.alive and run.alive
    assert stat.S_IMODE((runtime / "ascend_patch").stat().st_mode) == 0o700


def test_a_failure_is_recorded_with_its_traceback(toy: Toy) -> None:
    broken = Patch("toy.broken", "because", (Variant(">=1,<2", (Replace("toy.core:greet", by="toyfunctions:no"),)),))
    overlay = toy.overlay(broken)
    overlay.on_change = recorder(overlay).changed
    overlay.install()
    toy.module("toy.core")
    (record,) = records.latest().records  # type: ignore[union-attr]
    entry = record.patches["toy.broken"]
    assert entry["state"] == "failed" and "AttributeError" in entry["traceback"]


@pytest.mark.parametrize("trouble", ["not a folder", "not ours", "gone later", "odd role"])
def test_trouble_with_records_never_reaches_the_process(toy: Toy, runtime: Path, trouble: str) -> None:
    if trouble == "not a folder":
        (runtime / "ascend_patch").write_text("")
    elif trouble == "not ours":
        (runtime / "ascend_patch").symlink_to("/")
    overlay = toy.overlay(GREET)
    writer = records.Recorder(overlay, role=lambda: 1 / 0 if trouble == "odd role" else "main", facts=dict)  # type: ignore[arg-type,return-value]
    if trouble == "gone later":
        writer.write()
        for path in sorted(runtime.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    overlay.on_change = writer.changed
    overlay.install()
    assert toy.module("toy.core").greet("x") == "patched x!"
    writer.write()


def test_unreadable_records_are_left_out(toy: Toy, runtime: Path) -> None:
    recorder(toy.overlay(GREET)).write()
    run = records.latest()
    assert run is not None
    for name, text in (("1", "{"), ("2", "[]"), ("3", '{"pid": "x"}'), ("4", "")):
        (run.path / f"{name}.jsonl").write_text(text + "\n")
    assert [record.pid for record in records.Run(run.path).records] == [os.getpid()]


def test_a_change_costs_one_line_and_a_killed_process_at_most_its_last(toy: Toy) -> None:
    overlay = toy.overlay(GREET)
    writer = recorder(overlay)
    overlay.on_change = writer.changed
    overlay.install()
    toy.module("toy.core")
    writer.write()
    (path,) = records.latest().path.glob("*")  # type: ignore[union-attr]
    whole, changed = [json.loads(line) for line in path.read_text().splitlines()]
    assert whole["version"] == "1.0" and changed == {
        "patches": {"toy.greet": {"state": "applied", "applied": ["toy.core"]}}
    }
    path.write_text(path.read_text() + '{"patches": {"toy.greet": {"sta')
    (record,) = records.latest().records  # type: ignore[union-attr]
    assert record.patches["toy.greet"]["state"] == "applied" and record.version == "1.0"


def test_old_runs_are_removed(toy: Toy, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = runtime / "ascend_patch"
    for number in range(15):
        (base / f"20200101T0000{number:02}-1").mkdir(parents=True)
    living = base / "20190101T000000-1"
    living.mkdir()
    me = {"pid": os.getpid(), "ticks": records.start_ticks(os.getpid())}
    (living / "1.jsonl").write_text(json.dumps(me) + "\n")
    recorder(toy.overlay(GREET)).finish()
    left = [run.id for run in records.runs()]
    assert len(left) == records.KEPT_RUNS + 1 and living.name in left and os.environ[records.RUN_VARIABLE] == left[0]
    assert "20200101T000014-1" in left and "20200101T000000-1" not in left


def test_runs_that_were_killed_are_cleared_by_a_later_one(toy: Toy, runtime: Path) -> None:
    base = runtime / "ascend_patch"
    for number in range(recording.MANY_RUNS):
        (base / f"20200101T0000{number:02}-1").mkdir(parents=True)
    recorder(toy.overlay(GREET))
    assert len(records.runs()) == records.KEPT_RUNS


def test_a_child_joins_the_run_and_a_stranger_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    run, first = records.current_run()
    assert first and records.current_run() == (run, True), "asking does not change the answer"
    monkeypatch.setattr(recording.os, "getpid", lambda: 1)
    assert records.current_run() == (run, False)
    monkeypatch.setenv(records.RUN_VARIABLE, "../../etc")
    assert records.current_run()[1], "a run's id is never a path"


def stored(run: Path, pid: int, overlay: Overlay, role: str, **changes: object) -> None:
    writer = recorder(overlay, role)
    raw = writer._record() | {"pid": pid, "ticks": 1, "started": float(pid)} | changes
    run.mkdir(parents=True, exist_ok=True)
    (run / f"{pid}.jsonl").write_text(json.dumps(raw) + "\n")


def test_agreement(toy: Toy, tmp_path: Path) -> None:
    both, one = toy.overlay(GREET, LIMIT), toy.overlay(GREET)
    both.install()
    folder = tmp_path / "run"
    stored(folder, 1, both, "main")
    toy.module("toy.core")
    stored(folder, 2, both, "EngineCore")  # has imported more: still in agreement
    run = records.Run(folder)
    assert [record.role for record in run.records] == ["main", "EngineCore"]
    assert run.agreement().agrees and not run.alive
    stored(folder, 3, one, "Worker")
    stored(folder, 4, both, "Worker 2", fingerprint="another")
    stored(folder, 5, both, "Worker 3", version="1.1")
    differences = records.Run(folder).agreement().differences
    assert [line for line in differences if "Worker (3)" in line] == [
        "toy.limit is in force in main (1) and unknown in Worker (3)"
    ]
    assert [line for line in differences if "Worker 2" in line] == [
        "main (1) and Worker 2 (4) took the same patches from different source files"
    ]
    assert [line for line in differences if "Worker 3" in line] == ["main (1) runs version 1.0, Worker 3 (5) runs 1.1"]
    assert records.Run(tmp_path / "nothing").agreement().agrees


def test_a_disagreement_names_the_states(toy: Toy, tmp_path: Path) -> None:
    overlay = toy.overlay(GREET)
    overlay.install()
    stored(tmp_path / "run", 1, overlay, "main")
    overlay.undo()
    stored(tmp_path / "run", 2, overlay, "EngineCore")
    assert records.Run(tmp_path / "run").agreement().differences == (
        "toy.greet is in force in main (1) and disabled in EngineCore (2)",
    )


def test_a_dead_process_is_not_alive(toy: Toy, tmp_path: Path) -> None:
    stored(tmp_path / "run", os.getpid(), toy.overlay(GREET), "main", ticks=1)
    (record,) = records.Run(tmp_path / "run").records
    assert not record.alive, "the pid is in use again, by a process that started at another time"
