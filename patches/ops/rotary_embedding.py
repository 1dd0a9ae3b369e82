"""Rotary position embedding on query and key as one operator."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Replace, Variant

_ROTARY = "vllm.model_executor.layers.rotary_embedding"

_ALWAYS = (
    Add(f"{_ROTARY}.base:RotaryEmbedding.forward_oot", by=":rotary_embedding"),
    Replace(
        f"{_ROTARY}.phi3_long_rope_scaled_rope:Phi3LongRoPEScaledRotaryEmbedding.forward", by=":long_rope_embedding"
    ),
)
# Subclasses with rotations of their own; they must not inherit ours.
_FOURIER = Add(f"{_ROTARY}.fope:FourierRotaryEmbedding.forward_oot", by=":own_native")
_XD = Add(f"{_ROTARY}.xdrope:XDRotaryEmbedding.forward_oot", by=":own_native")

PATCH = Patch(
    id="ops.rotary_embedding",
    why="The native fallback gathers, splits, rotates and joins query and key in some fifteen operators per layer.",
    traced=True,
    requires=("platform.npu",),
    variants=(
        Variant(versions=">=0.13.0,<0.16", rewrites=(*_ALWAYS, _XD)),
        Variant(versions=">=0.16.0,<0.30", rewrites=(*_ALWAYS, _FOURIER, _XD)),
        Variant(versions=">=0.30.0,<0.34", rewrites=(*_ALWAYS, _FOURIER)),
    ),
    upstream="vllm/model_executor/layers/rotary_embedding/base.py",
    unnecessary_when="vllm.ir has a rotary embedding operator with a provider for torch-npu.",
    expires=(
        Expiry("vllm.model_executor.layers.rotary_embedding.base:RotaryEmbedding.forward_oot"),
        Expiry("vllm.model_executor.layers.rotary_embedding.base:RotaryEmbedding.forward_static", mentions="ir.ops"),
    ),
)


def rotary_embedding(self: Any, positions: Any, query: Any, key: Any = None) -> Any:
    """Rotate the first ``rotary_dim`` elements of every head.

    Args:
        positions: ``[num_tokens]`` int64.
        query: ``[num_tokens, num_heads * head_size]`` or ``[num_tokens, num_heads, head_size]``.
        key: the same with `num_kv_heads`, or None where layers share keys.
    """
    # A subclass inherits this function; a rotation of its own stays as it is.
    own = type(self).forward_native.__qualname__ != "RotaryEmbedding.forward_native"
    if own or key is None or type(self).forward_static.__qualname__ != "RotaryEmbedding.forward_static":
        return self.forward_native(positions, query, key)
    table = self._match_cos_sin_cache_dtype(query)
    if table is None:  # up to 0.15 it converts its own table
        table = self.cos_sin_cache
    if query.dim() == 2:
        return npu.rotary_embedding(positions, query, key, table, self.head_size, self.is_neox_style)
    flat = (query.flatten(1), key.flatten(1))
    turned = npu.rotary_embedding(positions, *flat, table, self.head_size, self.is_neox_style)
    return turned[0].view(query.shape), turned[1].view(key.shape)


def long_rope_embedding(self: Any, positions: Any, query: Any, key: Any = None, offsets: Any = None) -> Any:
    """Phi-3's LongRoPE: one table holds the short factors and, behind them, the long ones."""
    rows = positions + self.original_max_position_embeddings if self.use_long_rope else positions
    if offsets is not None:
        rows = rows + offsets
    return npu.rotary_embedding(rows, query, key, self.long_short_cos_sin_cache, self.head_size, True)


def own_native(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The subclass's own PyTorch implementation."""
    return self.forward_native(*args, **kwargs)
