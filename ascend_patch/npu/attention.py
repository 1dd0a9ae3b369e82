"""Attention over a paged key/value cache, and over keys and values given as they are."""

from __future__ import annotations

from functools import cache

import torch

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family

_HAS_PAGED = soc_family() in ("910B", "910_93", "950")
_HAS_VARLEN = soc_family() in ("910B", "910_93")
_EVERYTHING = 2147483647


@cache
def _triangle(device: torch.device) -> torch.Tensor:
    """The mask that sparse modes 2 to 4 want: 2048 x 2048, 1 above the diagonal."""
    return torch.ones((2048, 2048), dtype=torch.int8).triu(1).to(device=device, dtype=torch.bool)


def _sparsity(device: torch.device, causal: bool, window: int | None) -> tuple[torch.Tensor | None, int, int, int]:
    """(mask, sparse mode, tokens before, tokens after) for the fused operators; sequences are aligned at their ends."""
    if window is not None:
        return _triangle(device), 4, window - 1, 0 if causal else window - 1
    if causal:
        return _triangle(device), 3, _EVERYTHING, 0
    return None, 0, _EVERYTHING, _EVERYTHING


def paged_attention_supports(dtype: torch.dtype, head_size: int) -> bool:
    """Whether `paged_attention` takes this type and head size: float16 or bfloat16, a multiple of 16 up to 512.

    Source: CANN ops-transformer, aclnnFusedInferAttentionScoreV3 and V5 (non-quantised GQA). float32 is not among the
    operator's types: gather the context (`context_slots`) and use `varlen_attention`.
    """
    return _HAS_PAGED and dtype in (torch.float16, torch.bfloat16) and head_size % 16 == 0 and head_size <= 512


def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    *,
    block_table: torch.Tensor,
    query_ends: list[int],
    kv_lens: list[int],
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    block_size: int,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """Attention of new tokens over each request's whole context, which includes the new tokens.

    Args:
        query: ``[tokens, num_heads, head_size]`` float16 or bfloat16, contiguous; as many tokens as the last entry
            of `query_ends` says.
        key_cache: ``[blocks, block_size, num_kv_heads * head_size]`` or
            ``[blocks, num_kv_heads, block_size, head_size]``, contiguous (a slice along the first dimension is).
        value_cache: like `key_cache`.
        block_table: ``[requests, max blocks]`` int32, contiguous: the cache blocks of each request in order.
        query_ends: running total of new tokens, one entry per request, on the host.
        kv_lens: context length of each request, on the host.
        num_heads: query heads; at most 64 times `num_kv_heads`.
        num_kv_heads: key and value heads; a divisor of `num_heads`.
        scale: factor on the scores, usually ``head_size ** -0.5``.
        block_size: tokens per cache block; 128 fits every head size.
        causal: token i of n new ones sees the first ``kv_len - n + i + 1`` tokens; otherwise all.
        window: the most recent tokens a token sees, itself included; None for all. Without `causal` as many after it.

    Returns:
        ``[tokens, num_heads, head_size]``, the type of `query`.

    Raises:
        RuntimeError: from torch_npu, naming the argument that CANN refuses.

    Source: CANN ops-transformer, aclnnFusedInferAttentionScoreV3 and V5, layout TND with a block table.
    """
    mask, mode, before, after = _sparsity(query.device, causal, window)
    output: torch.Tensor = operators.npu_fused_infer_attention_score(
        query,
        key_cache,
        value_cache,
        atten_mask=mask,
        actual_seq_lengths=query_ends,
        actual_seq_lengths_kv=kv_lens,
        block_table=block_table,
        num_heads=num_heads,
        scale=scale,
        pre_tokens=before,
        next_tokens=after,
        input_layout="TND",
        num_key_value_heads=num_kv_heads,
        sparse_mode=mode,
        block_size=block_size,
    )[0]
    return output


def varlen_attention_supports(dtype: torch.dtype, head_size: int) -> bool:
    """Whether `varlen_attention` takes this type and head size: float32, float16 or bfloat16, 1 to 768."""
    return _HAS_VARLEN and dtype in (torch.float32, torch.float16, torch.bfloat16) and 1 <= head_size <= 768


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    query_ends: list[int],
    kv_ends: list[int],
    num_heads: int,
    scale: float,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """Attention of packed sequences over packed keys and values, without a cache.

    Args:
        query: ``[tokens, num_heads, head_size]`` float32, float16 or bfloat16; the last entry of `query_ends` tokens.
        key: ``[context tokens, num_kv_heads, head_size]``, the last entry of `kv_ends` tokens.
        value: like `key`.
        query_ends: running total of query tokens, one entry per sequence, on the host.
        kv_ends: running total of key tokens, one entry per sequence, on the host; with `causal` no sequence may have
            fewer keys than queries.
        num_heads: query heads, 1 to 256.
        scale: factor on the scores.
        causal: sequences are aligned at their ends; a token sees no later one.
        window: the most recent tokens a token sees, itself included; None for all. Without `causal` as many after it.

    Returns:
        ``[tokens, num_heads, head_size]``, the type of `query`.

    Raises:
        RuntimeError: from torch_npu, naming the argument that CANN refuses.

    Source: CANN ops-transformer, aclnnFlashAttentionVarLenScore.
    """
    output: torch.Tensor = _varlen(query, key, value, query_ends, kv_ends, num_heads, scale, causal, window)[0]
    return output


def varlen_attention_and_lse(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    query_ends: list[int],
    kv_ends: list[int],
    num_heads: int,
    scale: float,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`varlen_attention`; and the log-sum-exp of its scores, ``[tokens, num_heads, 1]`` float32."""
    output, top, total = _varlen(query, key, value, query_ends, kv_ends, num_heads, scale, causal, None)[:3]
    # The operator gives each row's numbers eight times.
    return output, total[..., :1].log().add_(top[..., :1])


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: list[int],
    kv_ends: list[int],
    num_heads: int,
    scale: float,
    causal: bool,
    window: int | None,
) -> tuple[torch.Tensor, ...]:
    mask, mode, before, after = _sparsity(query.device, causal, window)
    results: tuple[torch.Tensor, ...] = operators.npu_fusion_attention(
        query,
        key,
        value,
        num_heads,
        "TND",
        atten_mask=mask,
        scale=scale,
        pre_tockens=before,
        next_tockens=after,
        actual_seq_qlen=query_ends,
        actual_seq_kvlen=kv_ends,
        sparse_mode=mode,
    )
    return results
