"""Rotary position embedding on query and key as one operator."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Add, Patch, Replace, Variant

_ROTARY = "vllm.model_executor.layers.rotary_embedding"

PATCH = Patch(
    id="ops.rotary_embedding",
    why="The native fallback gathers, splits, rotates and joins query and key in some fifteen operators per layer.",
    traced=True,
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.32.0,<0.34",
            rewrites=(
                Add(f"{_ROTARY}.base:RotaryEmbedding.forward_oot", by=":rotary_embedding"),
                # A subclass with a rotation of its own; it must not inherit ours.
                Add(f"{_ROTARY}.fope:FourierRotaryEmbedding.forward_oot", by=":own_native"),
                Replace(
                    f"{_ROTARY}.phi3_long_rope_scaled_rope:Phi3LongRoPEScaledRotaryEmbedding.forward",
                    by=":long_rope_embedding",
                ),
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


def long_rope_embedding(self: Any, positions: Any, query: Any, key: Any = None, offsets: Any = None) -> Any:
    """Phi-3's LongRoPE: one table holds the short factors and, behind them, the long ones."""
    rows = positions + self.original_max_position_embeddings if self.use_long_rope else positions
    if offsets is not None:
        rows = rows + offsets
    return npu.rotary_embedding(rows, query, key, self.long_short_cos_sin_cache, self.head_size, True)


def own_native(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The subclass's own PyTorch implementation."""
    return self.forward_native(*args, **kwargs)
