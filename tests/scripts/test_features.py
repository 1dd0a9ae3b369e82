"""The tables of features: one cell per version, from what the runs wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import features

CHECKED = Path(__file__).resolve().parents[2]
COUNTS = ("passed", "failed", "skipped")


def row(feature: str, passed: int, failed: int = 0, skipped: int = 0, commit: str = "a") -> dict[str, Any]:
    counts = {"passed": passed, "failed": failed, "skipped": skipped}
    return {"table": "features", "feature": feature, **counts, "commit": commit, "date": "2026-11-29"}


def test_cells_say_what_happened() -> None:
    assert features.cell([row("one", 3)]) == "3 passed"
    assert features.cell([row("one", 3, 0, 2)]) == "3 passed, 2 skipped"
    assert features.cell([row("one", 0, 0, 2)]) == "not in this vLLM"
    assert features.cell([row("one", 3, 1, 2), row("one", 2)]) == "**1 of 6 failed**"
    assert features.cell([]) == "not run"


def test_versions_are_columns_and_files_that_are_gone_do_not_count(tmp_path: Path) -> None:
    here = str(Path(__file__).relative_to(CHECKED))
    (tmp_path / "0.33.0.json").write_text(
        json.dumps({here: [row("one", 1, commit="b")], "tests/gone.py": [row("x", 1)]})
    )
    (tmp_path / "0.9.1.json").write_text(json.dumps({here: [row("one", 0, 1), row("two", 2, commit="c")]}))
    runs = features.read(tmp_path)
    lines = features.table("features", "feature", runs).splitlines()
    assert lines[0] == "| feature | 0.9.1 | 0.33.0 |"
    assert lines[2:] == ["| one | **1 of 1 failed** | 1 passed |", "| two | 2 passed | not run |"]
    assert features.commits(runs["0.9.1"]) == "a (2026-11-29), c (2026-11-29)"
    assert features.table("layouts", "model", runs) == ""


TEST_FILE = """
import pytest
pytestmark = pytest.mark.shows("a feature")
def test_one(): pass
def test_two(): assert FAILS == 0
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest on the files in `folder`, with what this project's own runs have."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKED), "PYTEST_PLUGINS": "tests.conftest"}
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_run_replaces_what_its_files_said_before(tmp_path: Path) -> None:
    for name, fails in (("test_a.py", 0), ("test_b.py", 1)):
        (tmp_path / name).write_text(f"FAILS = {fails}\n{TEST_FILE}")
    results = f"--results={tmp_path}/evidence"
    assert run(tmp_path, results).returncode == 1
    (file,) = (tmp_path / "evidence").glob("*.json")
    first = json.loads(file.read_text())
    assert {name: [(one["passed"], one["failed"]) for one in rows] for name, rows in first.items()} == {
        "test_a.py": [(2, 0)],
        "test_b.py": [(1, 1)],
    }
    (tmp_path / "test_b.py").write_text(f"FAILS = 0\n{TEST_FILE}")
    assert run(tmp_path, results, "test_b.py").returncode == 0
    second = json.loads(file.read_text())
    assert second["test_a.py"] == first["test_a.py"]
    assert [(one["passed"], one["failed"]) for one in second["test_b.py"]] == [(2, 0)]


def test_a_run_of_a_part_of_a_file_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(f"FAILS = 0\n{TEST_FILE}")
    for part in (["-k", "one"], ["test_a.py::test_one"], ["-x"]):
        done = run(tmp_path, f"--results={tmp_path}/evidence", *part)
        assert done.returncode == 4 and "leave out" in done.stderr, (done.stdout, done.stderr)
    assert not (tmp_path / "evidence").exists()


def test_what_was_not_tried_and_what_killed_its_process(tmp_path: Path) -> None:
    skips = "\n@pytest.mark.skip(reason='a reader is not installed')\ndef test_three(): pass\n"
    (tmp_path / "test_a.py").write_text(f"FAILS = 0\n{TEST_FILE}{skips}")
    (tmp_path / "test_b.py").write_text(f"import os\nFAILS = 0\n{TEST_FILE}\ndef test_three(): os._exit(3)\n")
    assert run(tmp_path, f"--results={tmp_path}/evidence", "-n", "1", "-p", "xdist").returncode == 1
    (file,) = (tmp_path / "evidence").glob("*.json")
    said = {name: [list(map(one.get, COUNTS)) for one in rows] for name, rows in json.loads(file.read_text()).items()}
    assert said == {"test_a.py": [[2, 0, 0]], "test_b.py": [[2, 1, 0]]}
