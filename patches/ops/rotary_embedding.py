"""Rotary position embedding on query and key as one operator."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Add, Patch, Variant

_ROTARY = "vllm.model_executor.layers.rotary_embedding"

PATCH = Patch(
    id="ops.rotary_embedding",
    why="The native fallback gathers, splits, rotates and joins query and key in some fifteen operators per layer.",
    traced=True,
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.32.0,<0.33",
            rewrites=(
                Add(f"{_ROTARY}.base:RotaryEmbedding.forward_oot", by=":rotary_embedding"),
                # A subclass with a rotation of its own; it must not inherit ours.
                Add(f"{_ROTARY}.fope:FourierRotaryEmbedding.forward_oot", by=":own_native"),
            ),
        ),
    ),
    upstream="vllm/model_executor/layers/rotary_embedding/base.py",
    unnecessary_when="vllm.ir has a rotary embedding operator with a provider for torch-npu.",
)


def rotary_embedding(self: Any, positions: Any, query: Any, key: Any = None) -> Any:
    """Rotate the first ``rotary_dim`` elements of every head.

    Args:
        positions: ``[num_tokens]`` int64.
        query: ``[num_tokens, num_heads * head_size]``.
        key: ``[num_tokens, num_kv_heads * head_size]``, or None where layers share keys.
    """
    if key is None:
        return self.forward_native(positions, query, key)
    return npu.rotary_embedding(
        positions,
        query,
        key,
        self._match_cos_sin_cache_dtype(query),
        self.head_size,
        self.is_neox_style,
    )


def own_native(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The subclass's own PyTorch implementation."""
    return self.forward_native(*args, **kwargs)
