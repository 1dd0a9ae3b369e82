"""The tables of features: one cell per version, from what the runs wrote."""

from __future__ import annotations

from typing import Any

import features


def run(vllm: str, commit: str, **counts: tuple[int, int, int]) -> dict[str, Any]:
    names = ("passed", "failed", "skipped")
    rows = {feature: dict(zip(names, numbers, strict=True)) for feature, numbers in counts.items()}
    return {"vllm": vllm, "commit": commit, "tables": {"features": rows}}


def test_cells_say_what_happened() -> None:
    assert features.cell({"passed": 3, "failed": 0, "skipped": 0}) == "3 passed"
    assert features.cell({"passed": 3, "failed": 0, "skipped": 2}) == "3 passed, 2 skipped"
    assert features.cell({"passed": 0, "failed": 0, "skipped": 2}) == "not in this vLLM"
    assert features.cell({"passed": 3, "failed": 1, "skipped": 2}) == "**1 of 4 failed**"
    assert features.cell(None) == "not run"


def test_versions_are_columns_and_a_later_run_counts() -> None:
    runs = [
        run("0.33.0", "b", one=(1, 0, 0)),
        run("0.9.1", "a", one=(0, 1, 0), two=(2, 0, 0)),
        run("0.9.1", "c", one=(5, 0, 0)),
    ]
    merged = features.merged(runs)
    assert [(entry["vllm"], entry["commit"]) for entry in merged] == [("0.9.1", "a and c"), ("0.33.0", "b")]
    lines = features.table("features", "feature", merged).splitlines()
    assert lines[0] == "| feature | 0.9.1 | 0.33.0 |"
    assert lines[2:] == ["| one | 5 passed | 1 passed |", "| two | 2 passed | not run |"]
    assert features.table("layouts", "model", merged) == ""
