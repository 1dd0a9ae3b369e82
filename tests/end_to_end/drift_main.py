"""Imports changed copies of vLLM, each in a process forked from one that has loaded torch already.

Reads from standard input a JSON list of cases: ``folder`` (that holds the package ``vllm``), ``environment``,
``modules`` to import, ``gate`` (whether to go on to the module at which an engine's start begins) and ``code``, which
may set ``result``. Writes ``outcome.json`` and ``log.txt`` into each folder.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def run(case: dict[str, Any]) -> dict[str, Any]:
    """What one case does in its own process."""
    os.environ.update(case["environment"])
    sys.path.insert(0, case["folder"])
    import vllm

    import ascend_patch

    for module in case["modules"]:
        importlib.import_module(module)
    scope: dict[str, Any] = {"result": None}
    exec(case["code"], scope)
    refusal = ""
    try:
        if case["gate"]:
            importlib.import_module("vllm.engine.arg_utils")
        elif ascend_patch.overlay() is not None:
            ascend_patch.overlay().check_start()
    except Exception as error:
        refusal = f"{type(error).__name__}: {error}"
    return {
        "file": vllm.__file__,
        "refusal": refusal,
        "result": scope["result"],
        "patches": {item.id: [item.state.value, item.reason] for item in ascend_patch.status()},
    }


def main() -> None:
    # Most of what `import vllm` costs.
    for name in ("torch._inductor.standalone_compile", "torch._inductor.lowering", "transformers"):
        importlib.import_module(name)
    for case in json.load(sys.stdin):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            continue
        folder = Path(case["folder"])
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            (folder / "outcome.json").write_text(json.dumps(run(case)))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
