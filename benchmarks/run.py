"""Run all benchmarks and put the tables into README.md and README.zh.md, between their markers (see readme.py).

python benchmarks/run.py [--dry-run] [--reference-venv FOLDER] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import readme
import startup
import throughput


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
    parser.add_argument("--reference-venv", type=Path, default=readme.CHECKOUT / ".venv-vllm-cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    first = startup.table()
    print(first + "\n", flush=True)
    # Each in a process of its own: one imports torch without torch-npu, the others start ranks and engines.
    for name in ("kernel_table", "operators", "collectives"):
        command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *["--dry-run"] * arguments.dry_run]
        subprocess.run(command, check=True)
    second = throughput.table(throughput.measure(arguments.reference_venv, arguments.rounds))
    text = f"{machine()}\n\n{first}\n\n{second}\n"
    print("\n" + text)
    if arguments.dry_run:
        return
    readme.put("benchmarks", text)


if __name__ == "__main__":
    main()
