"""What the overlay costs at interpreter start and when it applies its patches, against the budgets.

    python benchmarks/startup.py

The start-up line is timed inside new interpreters, so that process creation does not drown it. The budgets are those of
a machine where `import wrapt` takes 81 ms; how long it takes here is measured in between, and everything else is also
given in proportion to it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ascend_patch.hostcann import _paths

ROUNDS = 40
APPLY_ROUNDS = 5
ANCHOR_MS = 81.0
Measured = TypeVar("Measured")
# Reads the two start-up files again in an interpreter that has not processed them (-S), as site does.
TIME_THE_LINE = """
import sys, time, json
folder = sys.argv[1]
sys.path[:0] = sys.argv[1:]
import site
known = set(sys.modules)
begun = time.perf_counter()
site.addpackage(folder, "ascend_patch.pth", set())
spent = time.perf_counter() - begun
print(json.dumps([spent * 1e3, sorted(set(sys.modules) - known)]))
"""


def start_up(on: bool) -> tuple[float, int]:
    """Milliseconds (median) that the start-up line takes, and how many modules it imports."""
    import sysconfig

    import ascend_patch

    site_packages = sysconfig.get_paths()["purelib"]
    package_parent = str(Path(ascend_patch.__path__[0]).parent)
    environment = {**os.environ, "VLLM_ASCEND_AUTOPATCH": "1" if on else "0"}
    times, modules = [], 0
    for _ in range(ROUNDS):
        command = [sys.executable, "-S", "-E", "-c", TIME_THE_LINE, site_packages, package_parent]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        spent, names = json.loads(done.stdout)
        times.append(spent)
        modules = len(names)
    return statistics.median(times), modules


def importing_wrapt() -> float:
    """Milliseconds that `import wrapt` takes in a new interpreter."""
    code = "import time; begun = time.perf_counter(); import wrapt; print((time.perf_counter() - begun) * 1e3)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def applying(cache: str | None = None) -> tuple[float, dict[str, int]]:
    """Milliseconds that one process takes to decide and apply everything, and the patches by state.

    Args:
        cache: where plans are kept; the user's own folder when left out.
    """
    environment = {**os.environ, "VLLM_ASCEND_AUTOPATCH": "1", "ASCEND_PATCH_DEVICE": "host"}
    if cache is not None:
        environment |= {"HOSTCANN_CACHE": str(_paths.cache_root()), "XDG_CACHE_HOME": cache}
    # An installed package has its bytecode: so does this one from the second process on.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    worker = str(Path(__file__).with_name("apply_worker.py"))
    done = subprocess.run([sys.executable, worker], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["overlay_ms"], answer["states"]


def median_of_applying(first: bool) -> tuple[float, dict[str, int]]:
    """Milliseconds (median) in a process that finds no plan (`first`), or in the processes after it."""
    applying()  # makes bytecode, and a plan
    times: list[float] = []
    for _ in range(APPLY_ROUNDS):
        with tempfile.TemporaryDirectory() as empty:
            taken, states = applying(empty if first else None)
        times.append(taken)
    return statistics.median(times), states


def table() -> str:
    anchors: list[float] = []

    def after_anchors(measured: Callable[[bool], Measured], how: bool) -> Measured:
        anchors.extend(importing_wrapt() for _ in range(ROUNDS // 4))
        return measured(how)

    (off, off_modules), (on, on_modules) = (after_anchors(start_up, on) for on in (False, True))
    (first, _), (later, states) = (after_anchors(median_of_applying, first) for first in (True, False))
    anchor = statistics.median(anchors)
    shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))

    def row(what: str, measured: float, budget: float, modules: tuple[int, int] | None = None) -> str:
        here, allowed = (f", {count} new modules" for count in modules) if modules else ("", "")
        part, allowed_part = 100 * measured / anchor, 100 * budget / ANCHOR_MS
        return (
            f"| {what} | {measured:.{2 if budget < 10 else 0}f} ms{here} | {part:.2f} % |"
            f" {budget:g} ms{allowed} | {allowed_part:.2f} % |"
        )

    return "\n".join(
        [
            f"| start-up | measured | of `import wrapt` ({anchor:.0f} ms) | budget | of {ANCHOR_MS:.0f} ms |",
            "|---|---|---|---|---|",
            row("interpreter start, overlay off", off, 0.3, (off_modules, 0)),
            row("on, vLLM not imported", on, 1.0, (on_modules, 2)),
            row(f"applying for vLLM 0.32.0 ({shown}), plan known from an earlier process", later, 50),
            row("the same in the very first process, which plans", first, 50),
        ]
    )


if __name__ == "__main__":
    print(table())
