"""The tables of what works with which vLLM, made from what test runs wrote, into README.md and README.zh.md.

make matrix PYTEST_ARGS="--results=$PWD/tests/evidence"   # or `make test VLLM=... PYTEST_ARGS=...` for one version
.venv/bin/python scripts/features.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import readme

FOLDER = readme.CHECKOUT / "tests" / "evidence"
TABLES = {"features": "feature", "layouts": "model on several devices"}
Rows = list[dict[str, Any]]


def cell(rows: Rows) -> str:
    """What one version's tests of a feature said; the rows are those of its files."""
    if not rows:
        return "not run"
    passed, failed, skipped = (sum(row[outcome] for row in rows) for outcome in ("passed", "failed", "skipped"))
    if failed:
        return f"**{failed} of {passed + failed} failed**"
    if not passed:
        return "not in this vLLM"
    return f"{passed} passed" + (f", {skipped} skipped" if skipped else "")


def table(name: str, title: str, runs: dict[str, Rows]) -> str:
    """One row per feature, in the order of the files of tests; one column per version."""
    of_table = {vllm: [row for row in rows if row["table"] == name] for vllm, rows in runs.items()}
    features = list(dict.fromkeys(row["feature"] for rows in reversed(of_table.values()) for row in rows))
    if not features:
        return ""
    lines = [f"| {title} | " + " | ".join(runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for feature in features:
        cells = [cell([row for row in rows if row["feature"] == feature]) for rows in of_table.values()]
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def read(folder: Path) -> dict[str, Rows]:
    """The rows of each version, oldest version first. Files of tests that are gone no longer count."""
    found = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: [int(part) for part in path.stem.split(".")]):
        files = json.loads(path.read_text("utf-8"))
        found[path.stem] = [row for file, rows in files.items() if (readme.CHECKOUT / file).exists() for row in rows]
    return found


def commits(rows: Rows) -> str:
    """Where the tests ran, and when."""
    places = sorted({(row["date"], row["commit"]) for row in rows})
    return ", ".join(f"{commit} ({date})" for date, commit in places)


def main() -> None:
    runs = read(FOLDER)
    tables = [table(name, title, runs) for name, title in TABLES.items()]
    said = "\n".join(f"- {vllm}: {commits(rows)}" for vllm, rows in runs.items())
    readme.put(
        "features",
        "\n".join(filter(None, tables))
        + f"\nWhat the last run of each file of tests said, on hostcann, at these commits:\n\n{said}\n",
    )


if __name__ == "__main__":
    main()
