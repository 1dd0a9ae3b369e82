"""How vLLM starts its engine and worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

PATCH = Patch(
    id="platform.start_method",
    why="A forked child cannot use its parent's NPU context, or torch's thread pools; vLLM looks for CUDA only.",
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(Wrap("vllm.utils.system_utils:_maybe_force_spawn", by=":spawn_unless_told_otherwise"),),
        ),
    ),
    upstream="vllm/utils/system_utils.py, _maybe_force_spawn",
    unnecessary_when="_maybe_force_spawn asks the platform, or torch.accelerator, whether the device is in use.",
    expires=(
        Expiry("vllm.utils.system_utils:_maybe_force_spawn", mentions="current_platform"),
        Expiry("vllm.utils.system_utils:_maybe_force_spawn", mentions="torch.accelerator"),
        Expiry("vllm.utils.system_utils:_maybe_force_spawn", without="cuda_is_initialized"),
    ),
)


def spawn_unless_told_otherwise(original: Callable[[], None]) -> Callable[[], None]:
    """Make ``spawn`` the default start method; a value that the user has set is left alone."""

    def _maybe_force_spawn() -> None:
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        original()

    return _maybe_force_spawn
