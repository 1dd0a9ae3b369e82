"""What the tests of each feature said, kept for `scripts/features.py`: `pytest --results FOLDER`.

A test, or a whole file, says with ``@pytest.mark.shows("a feature")`` what it is evidence for. What it says goes into
the tables of the README, one column per vLLM. A test that is skipped says that this vLLM lacks the feature, unless
something "is not installed": then it was not run. ``FOLDER/<vllm>.json`` keeps, per file of tests, what its last run
said and at which commit: a run of some files replaces what those said before.
"""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

MARKER = "shows"
NOT_HERE = "is not installed"
WORST_FIRST = ("failed", "skipped", "passed")


def label(items: list[pytest.Item]) -> None:
    """Write each test's nearest mark to what pytest-xdist sends with its reports."""
    for item in items:
        marker = item.get_closest_marker(MARKER)
        if marker is not None:
            table: str = marker.kwargs.get("table", "features")
            item.user_properties.append((MARKER, [table, *marker.args]))


def partial(config: pytest.Config) -> str:
    """What on the command line leaves out some tests of a file, or nothing."""
    option = config.option
    for name, value in (("-k", option.keyword), ("-m", option.markexpr), ("-x or --maxfail", option.maxfail)):
        if value:
            return name
    return next((argument for argument in config.args if "::" in argument), "")


class Results:
    """Collects the reports of one run.

    Raises:
        pytest.UsageError: the run leaves out tests of a file, so that its counts would say too little.
    """

    def __init__(self, folder: Path, config: pytest.Config) -> None:
        if left_out := partial(config):
            raise pytest.UsageError(f"--results keeps what whole files of tests said: leave out {left_out}")
        self.folder = folder
        self._release = version("vllm").partition("+")[0]
        self._outcomes: dict[str, tuple[str, str, str]] = {}
        self._not_run: set[str] = set()
        self._died_in: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "???":  # pytest-xdist, of a test whose process has died: it knows nothing else about it
            if report.nodeid in self._outcomes:
                self._outcomes[report.nodeid] = (*self._outcomes[report.nodeid][:2], "failed")
            else:
                self._died_in.append(report.nodeid.partition("::")[0])
        if report.skipped and NOT_HERE in str(report.longrepr):
            self._not_run.add(report.nodeid)
        if report.nodeid in self._not_run:
            return
        for name, value in report.user_properties:
            if name != MARKER:
                continue
            table, feature = value  # type: ignore[misc]
            before = self._outcomes.get(report.nodeid, (table, feature, "passed"))[2]
            # An expected failure is not evidence that the feature works.
            outcome = "failed" if hasattr(report, "wasxfail") else report.outcome
            worst = min(before, outcome, key=WORST_FIRST.index)
            self._outcomes[report.nodeid] = (table, feature, worst)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return  # interrupted: whatever is missing would count as not there
        ask = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(ask, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
        said = {"commit": commit, "date": datetime.now(timezone.utc).date().isoformat()}
        files: dict[str, list[dict[str, Any]]] = {}
        for nodeid, (table, feature, outcome) in self._outcomes.items():
            rows = files.setdefault(nodeid.partition("::")[0], [])
            row = next((row for row in rows if (row["table"], row["feature"]) == (table, feature)), None)
            if row is None:
                row = {"table": table, "feature": feature, **dict.fromkeys(WORST_FIRST, 0), **said}
                rows.append(row)
            row[outcome] += 1
        path = self.folder / f"{self._release}.json"
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for file in self._died_in:
            for row in files.get(file, known.get(file, [])):
                row["failed"] += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(sorted({**known, **files}.items())), indent=1) + "\n", "utf-8")
