"""What README.md and README.zh.md hold between `<!-- NAME -->` and `<!-- /NAME -->`, each on a line of its own.

.venv/bin/python scripts/readme.py        # versions and command line; benchmarks fill in the other places
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import stacks

CHECKOUT = Path(__file__).resolve().parent.parent
COMMANDS = ("list --area ops", "show worker.init_device", "diff worker.init_device", "doctor")


def put(name: str, text: str) -> None:
    """Replaces what is between the markers `name`; a file without them is left alone."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    for file in ("README.md", "README.zh.md"):
        readme = CHECKOUT / file
        if readme.exists() and marked.search(content := readme.read_text(encoding="utf-8")):
            readme.write_text(marked.sub(lambda marks: marks[1] + text + marks[2], content), encoding="utf-8")
            print(f"{file}: updated")


def publish(name: str, text: str, *, dry_run: bool) -> None:
    """Print a benchmark's text and, unless it is a dry run, put it between the markers `name`."""
    print(text)
    if not dry_run:
        put(name, text)


def command_line() -> str:
    """What the commands print, as a reader would see it on hostcann in an environment of this checkout."""
    environment = {**os.environ, "VLLM_ASCEND_AUTOPATCH": "1", "ASCEND_PATCH_DEVICE": "host", "COLUMNS": "160"}
    executable = Path(sys.executable).with_name("ascend-patch")
    blocks = []
    for command in COMMANDS:
        done = subprocess.run(
            [str(executable), *command.split()], cwd=CHECKOUT, env=environment, capture_output=True, text=True
        )
        if done.returncode not in (0, 1) or not done.stdout:
            sys.exit(f"ascend-patch {command}: exit code {done.returncode}\n{done.stderr}")
        shown = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
        shown = shown.replace(f"{CHECKOUT}/", "").replace(str(Path.home()), "~")  # nobody else's folders
        blocks.append(f"```console\n$ ascend-patch {command}\n{shown}\n```\n")
    return "\n".join(blocks)


def versions() -> str:
    """The vLLM releases that are tested end to end, with their stacks, and those that stand by their contracts."""
    tested = stacks.tested_versions()
    rows = ["| vLLM, tested end to end | torch | torch-npu | transformers |", "|---|---|---|---|"]
    for stack in map(stacks.find, tested):
        transformers = stack.transformers.removeprefix("transformers")
        rows.append(f"| {stack.vllm} | {stack.torch} | {stack.torch_npu} | {transformers} |")
    known = {path.stem for path in (CHECKOUT / "patches" / "contracts").glob("*.json")} - set(tested)
    others = ", ".join(sorted(known, key=lambda name: [int(part) for part in name.split(".")]))
    return "\n".join(rows) + f"\n\nBy their contracts only: {others}.\n"


if __name__ == "__main__":
    put("versions", versions())
    put("cli", command_line())
