"""What README.md and README.zh.md hold between `<!-- NAME -->` and `<!-- /NAME -->`, each on a line of its own.

.venv/bin/python scripts/readme.py        # the output of the command line; benchmarks fill in the other places
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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
        blocks.append(f"```console\n$ ascend-patch {command}\n{shown}\n```\n")
    return "\n".join(blocks)


if __name__ == "__main__":
    put("cli", command_line())
