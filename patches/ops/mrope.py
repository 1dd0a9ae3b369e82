"""Rotary position embedding with positions of three parts, for language models that see, as one operator."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Variant

_MROPE = "vllm.model_executor.layers.rotary_embedding.mrope:MRotaryEmbedding"

PATCH = Patch(
    id="ops.mrope",
    why="vLLM's kernel for it is Triton; the native fallback gathers, picks, splits, rotates and joins query and key in"
    " some twenty operators per layer.",
    traced=True,
    requires=("platform.npu",),
    variants=(Variant(versions=">=0.13.0,<0.34", rewrites=(Add(f"{_MROPE}.forward_oot", by=":multimodal_rotary"),)),),
    upstream="vllm/model_executor/layers/rotary_embedding/mrope.py",
    unnecessary_when="vllm.ir has a rotary embedding operator with a provider for torch-npu.",
    expires=(Expiry(f"{_MROPE}.forward_oot"),),
)


def multimodal_rotary(self: Any, positions: Any, query: Any, key: Any = None, offsets: Any = None) -> Any:
    """Rotate the first ``rotary_dim`` elements of every head by time, height or width, section by section.

    Args:
        positions: ``[3, num_tokens]`` int64 (4 with four sections), or ``[num_tokens]`` where all parts agree.
        query: ``[num_tokens, num_heads * head_size]``, or with a dimension for the heads.
        key: the same with `num_kv_heads`.
    """
    # A subclass inherits this function; a rotation of its own stays as it is.
    if type(self).forward_native.__qualname__ != "MRotaryEmbedding.forward_native":
        return self.forward_native(positions, query, key, offsets)
    table = self._match_cos_sin_cache_dtype(query)
    if table is None:  # up to 0.15 it converts its own table
        table = self.cos_sin_cache
    flat = (query.flatten(1), key.flatten(1), table, self.head_size, self.is_neox_style)
    if positions.dim() == 1:
        turned = npu.rotary_embedding(positions, *flat)
    else:
        turned = npu.multimodal_rotary_embedding(positions, *flat, self.mrope_section, self.mrope_interleaved)
    return turned[0].view(query.shape), turned[1].view(key.shape)
