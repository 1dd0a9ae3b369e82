"""What the tests of each feature said, as a file for `scripts/features.py`: `pytest --results FOLDER`.

A test, or a whole file, says with ``@pytest.mark.shows("a feature")`` what it is evidence for. What it says goes into
the tables of the README, one column per vLLM.
"""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

MARKER = "shows"
WORST_FIRST = ("failed", "skipped", "passed")


def label(items: list[pytest.Item]) -> None:
    """Write each test's nearest mark to what pytest-xdist sends with its reports."""
    for item in items:
        marker = item.get_closest_marker(MARKER)
        if marker is not None:
            table: str = marker.kwargs.get("table", "features")
            item.user_properties.append((MARKER, [table, *marker.args]))


class Results:
    """Collects the reports of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._outcomes: dict[str, tuple[str, str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name != MARKER:
                continue
            table, feature = value  # type: ignore[misc]
            before = self._outcomes.get(report.nodeid, (table, feature, "passed"))[2]
            # An expected failure is not evidence that the feature works.
            outcome = "failed" if hasattr(report, "wasxfail") else report.outcome
            worst = min(before, outcome, key=WORST_FIRST.index)
            self._outcomes[report.nodeid] = (table, feature, worst)

    def pytest_sessionfinish(self) -> None:
        tables: dict[str, dict[str, dict[str, int]]] = {}
        for table, feature, outcome in self._outcomes.values():
            counts = tables.setdefault(table, {}).setdefault(feature, dict.fromkeys(WORST_FIRST, 0))
            counts[outcome] += 1
        vllm = version("vllm").partition("+")[0]
        ask = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(ask, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"vllm": vllm, "commit": commit, "tables": tables}, indent=1)
        (self.folder / f"{vllm}.json").write_text(text + "\n", "utf-8")
