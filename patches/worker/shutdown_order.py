"""An engine in the user's own process is torn down while the NPU is still there."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

PATCH = Patch(
    id="worker.shutdown_order",
    why="At exit torch-npu destroys all process groups first, and vLLM's finalizer then complains that they are gone.",
    requires=("platform.npu",),
    variants=(
        Variant(versions=">=0.13.0,<0.31", unneeded="A client in the user's process has no finalizer."),
        Variant(
            versions=">=0.31.0,<0.34",
            rewrites=(Wrap("vllm.v1.engine.core_client:InprocClient.__init__", by=":finalize_before_torch_npu"),),
        ),
    ),
    upstream="vllm/v1/engine/core_client.py, InprocClient; torch_npu/_init/core/runtime_lifecycle.py",
    unnecessary_when="torch-npu leaves process groups that it did not create alone, or EngineCore ignores dead groups.",
    expires=(Expiry("vllm.v1.engine.core_client:InprocClient.__init__", mentions="atexit"),),
)


def finalize_before_torch_npu(original: Callable[..., None]) -> Callable[..., None]:
    """Run the client's finalizer from ``atexit``, which calls the latest registration first."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        # A weakref.finalize does nothing the second time, and keeps the client itself collectable.
        atexit.register(self._finalizer)

    return __init__
