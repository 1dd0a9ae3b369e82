"""Attention of vision towers, which keeps nothing and hides nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Replace, Variant, Wrap

_LAYER = "vllm.model_executor.layers.attention.mm_encoder_attention:MMEncoderAttention"
_OLD_LAYER = "vllm.attention.layers.mm_encoder_attention:MMEncoderAttention"
_ATTENTION = Add(f"{_LAYER}.forward_oot", by=":attention")

PATCH = Patch(
    id="attention.vision",
    why="vLLM's own way off CUDA takes the lengths to the host in each layer and attends image by image, window by"
    " window; the NPU's operator takes all at once.",
    traced=True,
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.14",
            rewrites=(
                Add(f"{_OLD_LAYER}.forward_oot", by=":attention"),
                Replace("vllm.attention.layer:MultiHeadAttention.forward", by=":attention_of_whole_images"),
            ),
        ),
        Variant(versions=">=0.14.0,<0.17", rewrites=(_ATTENTION,)),
        Variant(
            versions=">=0.17.0,<0.34",
            rewrites=(_ATTENTION, Wrap(f"{_LAYER}.maybe_recompute_cu_seqlens", by=":keeping_host_copy")),
        ),
    ),
    upstream="vllm/model_executor/layers/attention/mm_encoder_attention.py",
    unnecessary_when="vLLM asks the platform for an implementation of MMEncoderAttention.",
    expires=(Expiry(f"{_LAYER}.forward_oot"),),
)

_MOST_SEQUENCES = 2048  # CANN ops-transformer, aclnnFlashAttentionVarLenScore: entries of actualSeqQLen


def attention(
    self: Any,
    query: Any,
    key: Any,
    value: Any,
    cu_seqlens: Any = None,
    max_seqlen: Any = None,
    sequence_lengths: Any = None,
) -> Any:
    """Attend inside each sequence, in both directions.

    Args:
        query: ``[rows, tokens, num_heads * head_size]`` or ``[rows, tokens, num_heads, head_size]``; `key` and `value`
            the same with `num_kv_heads` and tokens of their own.
        cu_seqlens: ``[sequences + 1]`` int32, where each sequence of a row begins and the last one ends; None where
            each row is one.

    Returns:
        The shape of `query`.

    Raises:
        NotImplementedError: this NPU has no such operator for this type.
    """
    if not npu.varlen_attention_supports(query.dtype, self.head_size):
        raise NotImplementedError(
            f"{npu.device_name()} has no attention without a cache for {query.dtype} and head size {self.head_size}:"
            " flash attention (910B, 910_93) takes float32, float16 and bfloat16 up to 768. For PyTorch's operators"
            " instead run 'ascend-patch disable attention.vision'."
        )
    rows = query.shape[0]
    # The operator wants each on its own, not as slices of a joint projection.
    packed = [
        tensor.reshape(-1, heads, self.head_size).contiguous()
        for tensor, heads in ((query, self.num_heads), (key, self.num_kv_heads), (value, self.num_kv_heads))
    ]
    if cu_seqlens is None:
        ends = [[(row + 1) * tensor.shape[1] for row in range(rows)] for tensor in (query, key)]
    else:
        inside = _ends(cu_seqlens)
        one = [row * query.shape[1] + end for row in range(rows) for end in inside]
        ends = [one, one]
    return _attend(self, *packed, *ends).view(query.shape)


def attention_of_whole_images(self: Any, query: Any, key: Any, value: Any) -> Any:
    """`attention` of each row; up to 0.13 a layer of its own, with ``[rows, tokens, num_heads * head_size]``."""
    return attention(self, query, key, value).flatten(2)


def keeping_host_copy(original: Callable[..., Any]) -> Callable[..., Any]:
    """Where a model computes the lengths on the host and brings them to the device here, they need not come back."""

    def maybe_recompute_cu_seqlens(cls: Any, attn_backend: Any, cu_seqlens: Any, *args: Any, **options: Any) -> Any:
        on_device = original(cls, attn_backend, cu_seqlens, *args, **options)
        on_device.npu_ends = _ends_of(cu_seqlens.tolist())
        return on_device

    return maybe_recompute_cu_seqlens


def _ends(cu_seqlens: Any) -> list[int]:
    """Where sequences end, on the host; kept with the tensor, which all layers are given."""
    ends: list[int] | None = getattr(cu_seqlens, "npu_ends", None)
    if ends is None:
        ends = cu_seqlens.npu_ends = _ends_of(cu_seqlens.tolist())
    return ends


def _ends_of(boundaries: list[int]) -> list[int]:
    """Without those of empty sequences, which only graphs are filled up with."""
    return [end for start, end in pairwise(boundaries) if end > start]


def _attend(self: Any, query: Any, key: Any, value: Any, query_ends: list[int], kv_ends: list[int]) -> Any:
    """As many calls of the operator as its limit on sequences asks for: one, but for very large images."""
    parts = []
    query_start = kv_start = 0
    for first in range(0, len(query_ends), _MOST_SEQUENCES):
        of_query, of_kv = (ends[first : first + _MOST_SEQUENCES] for ends in (query_ends, kv_ends))
        parts.append(
            npu.varlen_attention(
                query[query_start : of_query[-1]],
                key[kv_start : of_kv[-1]],
                value[kv_start : of_kv[-1]],
                query_ends=[end - query_start for end in of_query],
                kv_ends=[end - kv_start for end in of_kv],
                num_heads=self.num_heads,
                scale=self.head_size**-0.5 if self.scale is None else self.scale,  # None in 0.13's Qwen
                causal=False,
                window=None,
            )
        )
        query_start, kv_start = of_query[-1], of_kv[-1]
    if len(parts) == 1:
        return parts[0]
    import torch

    return torch.cat(parts)
