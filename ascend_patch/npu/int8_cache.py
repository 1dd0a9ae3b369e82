"""Keys and values as int8: attention over such a cache, and bringing parts of it back."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family

_MOST_BLOCK_SIZE = 512


def int8_attention_refuses(dtype: torch.dtype, head_size: int, block_size: int) -> str:
    """Why `int8_attention` cannot attend to an int8 cache here, or "".

    Args:
        dtype: of the queries.
        block_size: tokens per cache block.

    Source: CANN ops-transformer, aclnnFusedInferAttentionScoreV3 and V5 (pseudo quantisation), and torch_npu's page of
    npu_fused_infer_attention_score. The 950 has the operator, but none that `varlen_attention` knows for prompts.
    """
    if soc_family() not in ("910B", "910_93"):
        return "attention to int8 keys and values exists for A2 and A3 only"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"CANN attends to int8 keys with float16 or bfloat16, not {dtype}: start with --dtype bfloat16"
    if head_size % 32 or head_size > 512:
        return f"CANN attends to int8 keys with a head size that is a multiple of 32 up to 512, not {head_size}"
    if block_size % 32 or block_size > _MOST_BLOCK_SIZE:
        return (
            f"CANN pages int8 keys in blocks of a multiple of 32 tokens up to {_MOST_BLOCK_SIZE}, not {block_size}:"
            " leave --block-size out"
        )
    return ""


def int8_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    key_scale: torch.Tensor,
    value_scale: torch.Tensor,
    key_offset: torch.Tensor | None = None,
    value_offset: torch.Tensor | None = None,
    *,
    block_table: torch.Tensor,
    kv_lens: list[int],
    num_kv_heads: int,
    scale: float,
    hidden: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of one new token per request over the request's whole context, which includes the token.

    Keys and values are ``(integer + offset) * scale``.

    Args:
        query: ``[requests, num_heads, head_size]`` float16 or bfloat16, contiguous.
        key_cache: ``[blocks, block_size, num_kv_heads * head_size]`` int8, contiguous.
        value_cache: like `key_cache`.
        key_scale: ``[1]`` or ``[1, num_kv_heads * head_size]``, the type of `query`; also `value_scale`, of one shape.
        key_offset: like `key_scale`; also `value_offset`, both or none.
        block_table: ``[requests, max blocks]`` int32, contiguous.
        kv_lens: context length of each request, on the host.
        num_kv_heads: a divisor of the query's heads that is at least a 64th of them.
        scale: factor on the scores.
        hidden: ``[requests, 1, 1, max blocks * block_size]`` bool, the positions that are not seen; None for none.

    Returns:
        ``[requests, num_heads, head_size]``, the type of `query`.

    Raises:
        RuntimeError: from torch_npu, naming the argument that CANN refuses.

    Source: CANN ops-transformer, aclnnFusedInferAttentionScoreV3, Q_S = 1, separate parameters of key and value, with a
    block table. Its layout TND takes no int8 keys, and with a block table one query row is all it takes.
    """
    output: torch.Tensor = operators.npu_fused_infer_attention_score(
        query.unsqueeze(1),
        key_cache,
        value_cache,
        atten_mask=hidden,
        actual_seq_lengths_kv=kv_lens,
        block_table=block_table,
        key_antiquant_scale=key_scale,
        key_antiquant_offset=key_offset,
        value_antiquant_scale=value_scale,
        value_antiquant_offset=value_offset,
        num_heads=query.shape[1],
        scale=scale,
        input_layout="BSND",
        num_key_value_heads=num_kv_heads,
        block_size=key_cache.shape[1],
    )[0]
    return output.squeeze(1)


def dequantise(x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    """``(x + offset) * scale``, in the type of `scale`.

    Args:
        x: int8 ``[rows, columns]``.
        scale: ``[1]`` or ``[1, columns]`` float16 or bfloat16, in which sums of integers up to 256 are exact.
        offset: like `scale`, whole numbers.
    """
    wide = x.to(scale.dtype)
    return (wide if offset is None else wide.add_(offset)).mul_(scale)
