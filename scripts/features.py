"""The tables of what works with which vLLM, made from what test runs wrote, into README.md and README.zh.md.

make matrix PYTEST_ARGS="--results=$PWD/.results"      # or `make test VLLM=... PYTEST_ARGS=...` for one version
.venv/bin/python scripts/features.py .results
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import readme

TABLES = {"features": "feature", "layouts": "model on several devices"}


def cell(counts: dict[str, int] | None) -> str:
    """What one version's tests of a feature said."""
    if counts is None:
        return "not run"
    passed, failed, skipped = counts["passed"], counts["failed"], counts["skipped"]
    if failed:
        return f"**{failed} of {passed + failed} failed**"
    if not passed:
        return "not in this vLLM"
    return f"{passed} passed" + (f", {skipped} skipped" if skipped else "")


def table(name: str, title: str, runs: list[dict[str, Any]]) -> str:
    """One row per feature, in the order of the newest run's tests; one column per version."""
    features = list(dict.fromkeys(feature for run in reversed(runs) for feature in run["tables"].get(name, {})))
    if not features:
        return ""
    lines = [f"| {title} | " + " | ".join(run["vllm"] for run in runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for feature in features:
        cells = [cell(run["tables"].get(name, {}).get(feature)) for run in runs]
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def merged(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per version, oldest first; of runs of the same version a later one counts for what it tested."""
    versions: dict[str, dict[str, Any]] = {}
    for run in runs:
        known = versions.setdefault(run["vllm"], {"vllm": run["vllm"], "commit": run["commit"], "tables": {}})
        if run["commit"] not in known["commit"].split(" and "):
            known["commit"] += f" and {run['commit']}"
        for name, features in run["tables"].items():
            known["tables"].setdefault(name, {}).update(features)
    return sorted(versions.values(), key=lambda run: [int(part) for part in run["vllm"].split(".")])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="what the runs wrote with --results")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    runs = merged([json.loads(path.read_text("utf-8")) for path in files])
    tables = [table(name, title, runs) for name, title in TABLES.items()]
    commits = ", ".join(f"{run['vllm']} at {run['commit']}" for run in runs)
    readme.put(
        "features",
        "\n".join(filter(None, tables))
        + f"\nWhat the last run of each feature's tests said, on hostcann: {commits}.\n",
    )


if __name__ == "__main__":
    main()
