"""How long the overlay itself takes in one process: planning and applying, without what it would import anyway.

Time is booked to the overlay while one of its hooks or modules runs, and to the others while any module
outside `ascend_patch` executes, also when a hook imports it. Prints milliseconds as JSON.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from typing import Any

SPENT = {"overlay": 0.0, "others": 0.0}
STACK = ["others"]
LAST = [time.perf_counter()]


def switch(to: str | None) -> None:
    """Book the time since the last switch; go into `to`, or back when it is None."""
    now = time.perf_counter()
    SPENT[STACK[-1]] += now - LAST[0]
    LAST[0] = now
    if to is None:
        STACK.pop()
    else:
        STACK.append(to)


def booked(to: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        switch(to)
        try:
            return function(*arguments)
        finally:
            switch(None)

    return call


def book_imports(loader: type) -> None:
    original = loader.exec_module  # type: ignore[attr-defined]

    def exec_module(self: Any, module: Any) -> None:
        owner = "overlay" if module.__name__.startswith("ascend_patch") else "others"
        booked(owner, original)(self, module)

    loader.exec_module = exec_module  # type: ignore[attr-defined]


def main() -> None:
    logging.disable(logging.WARNING)
    import torch  # noqa: F401 - with torch_npu and hostcann: they are not the overlay's cost

    import ascend_patch
    from ascend_patch.engine import finder

    book_imports(SourceFileLoader)
    book_imports(ExtensionFileLoader)
    original = finder.HookingLoader.__init__

    def timed(self: Any, loader: Any, before: Any, after: Any) -> None:
        original(
            self, loader, [booked("overlay", hook) for hook in before], [booked("overlay", hook) for hook in after]
        )

    finder.HookingLoader.__init__ = timed  # type: ignore[method-assign]
    import vllm
    import vllm.v1.engine.llm_engine
    import vllm.v1.worker.gpu_worker  # noqa: F401

    switch("others")
    spent = dict(SPENT)  # Asking for the states, below, imports modules of its own.
    states: dict[str, int] = {}
    for patch in ascend_patch.status():
        states[str(patch.state.value)] = states.get(str(patch.state.value), 0) + 1
    print(json.dumps({"overlay_ms": spent["overlay"] * 1e3, "others_ms": spent["others"] * 1e3, "states": states}))


if __name__ == "__main__":
    main()
