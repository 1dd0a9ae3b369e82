"""Weights and KV cache come from torch-npu's ordinary allocator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

PATCH = Patch(
    id="worker.memory_pool",
    why="On an out-of-tree platform the worker asks for CUDA's sleep-mode allocator even when sleep mode is off.",
    required=True,
    requires=("worker.init_device",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.23", unneeded="The worker asks for the allocator of sleep mode only in sleep mode."
        ),
        Variant(
            versions=">=0.23.0,<0.34",
            rewrites=(
                Wrap(
                    "vllm.v1.worker.gpu_worker:Worker._maybe_get_memory_pool_context",
                    by=":pool_only_for_sleep_mode",
                ),
            ),
        ),
    ),
    upstream="vllm/v1/worker/gpu_worker.py, Worker._maybe_get_memory_pool_context",
    unnecessary_when="The function returns a null context for any platform whose sleep mode is off.",
    expires=(
        Expiry("vllm.v1.worker.gpu_worker:Worker._maybe_get_memory_pool_context", mentions="is_out_of_tree"),
        Expiry("vllm.v1.worker.gpu_worker:Worker._maybe_get_memory_pool_context", without="is_cuda_alike"),
    ),
)

_PoolContext = Callable[[Any, str], AbstractContextManager[Any]]


def pool_only_for_sleep_mode(original: _PoolContext) -> _PoolContext:
    """Ask the original only where the user enabled sleep mode."""

    def _maybe_get_memory_pool_context(self: Any, tag: str) -> AbstractContextManager[Any]:
        if not self.vllm_config.model_config.enable_sleep_mode:
            return nullcontext()
        return original(self, tag)

    return _maybe_get_memory_pool_context
