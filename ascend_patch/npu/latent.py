"""Multi-head latent attention: a token's keys and values are one latent and one rotated vector for all heads."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators
from ascend_patch.npu.attention import _sparsity
from ascend_patch.npu.device import soc_family

_HAS_LATENT = soc_family() in ("910B", "910_93")
_HEADS = (1, 2, 4, 8, 16, 32, 64, 128)
LATENT_SIZE = 512
ROPE_SIZE = 64
UNFOLDED_SIZES = (192, 128)
"""Head sizes of query and key, and of value, once a latent vector is multiplied out."""


def latent_attention_refuses(
    dtype: torch.dtype, num_heads: int, latent_size: int, rope_size: int, key_size: int, value_size: int
) -> str:
    """Why this device has no latent attention for such a model, or "".

    Args:
        num_heads: query heads on this device.
        latent_size: the model's ``kv_lora_rank``.
        rope_size: its ``qk_rope_head_dim``.
        key_size: ``qk_nope_head_dim + qk_rope_head_dim``.
        value_size: its ``v_head_dim``.

    Source: CANN ops-transformer, aclnnFusedInferAttentionScoreV3, constraints of queryRope and keyRope and of TND.
    """
    if not _HAS_LATENT:
        return "this device's attention operator takes no latent keys (910B and 910_93 do)"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"the operator takes float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    if num_heads not in _HEADS:
        return f"the operator takes 1, 2, 4, 8, 16, 32, 64 or 128 heads per device, not {num_heads}"
    sizes, wanted = (latent_size, rope_size, key_size, value_size), (LATENT_SIZE, ROPE_SIZE, *UNFOLDED_SIZES)
    if sizes != wanted:
        return (
            "the operator takes kv_lora_rank {}, qk_rope_head_dim {}, keys of {} and values of {}, not"
            " {}, {}, {} and {}".format(*wanted, *sizes)
        )
    return ""


def latent_attention(
    query: torch.Tensor,
    query_rope: torch.Tensor,
    latent_cache: torch.Tensor,
    rope_cache: torch.Tensor,
    *,
    block_table: torch.Tensor,
    kv_lens: list[int],
    scale: float,
    block_size: int,
) -> torch.Tensor:
    """Attention of one new token per request over the request's whole latent context, which includes the token.

    Args:
        query: ``[requests, heads, 512]`` float16 or bfloat16, contiguous: multiplied with the keys'
            up-projection.
        query_rope: ``[requests, heads, 64]``, the type of `query`, contiguous.
        latent_cache: ``[blocks, block_size, 512]``, the type of `query`, contiguous; keys and values at once.
        rope_cache: ``[blocks, block_size, 64]``, likewise.
        block_table: ``[requests, max blocks]`` int32, contiguous.
        kv_lens: context length of each request, on the host.
        scale: factor on the scores: that of the model's keys before they were folded into the query.
        block_size: tokens per cache block: 16 or 128.

    Returns:
        ``[requests, heads, 512]``, the type of `query`: to be multiplied with the values' up-projection.

    Raises:
        RuntimeError: from torch_npu, naming the argument that CANN refuses.

    Source: CANN ops-transformer, aclnnFusedInferAttentionScoreV3, constraints of queryRope and keyRope. The layout is
    BSND: TND takes 32 heads and more only.
    """
    output: torch.Tensor = operators.npu_fused_infer_attention_score(
        query.unsqueeze(1),
        latent_cache,
        latent_cache,
        query_rope=query_rope.unsqueeze(1),
        key_rope=rope_cache,
        actual_seq_lengths_kv=kv_lens,
        block_table=block_table,
        num_heads=query.shape[1],
        scale=scale,
        input_layout="BSND",
        num_key_value_heads=1,
        block_size=block_size,
    )[0]
    return output.squeeze(1)


def unfolded_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    query_ends: list[int],
    kv_ends: list[int],
    scale: float,
    causal: bool,
    with_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of packed sequences over packed keys and values whose head sizes differ.

    Args:
        query: ``[tokens, heads, 192]`` float16 or bfloat16, contiguous; the last entry of `query_ends` tokens.
        key: ``[context tokens, heads, 192]``, likewise; the last entry of `kv_ends` tokens.
        value: ``[context tokens, heads, 128]``, likewise.
        query_ends: running total of query tokens, one entry per sequence, on the host.
        kv_ends: running total of key tokens, one entry per sequence, on the host.
        scale: factor on the scores.
        causal: sequences are aligned at their ends; a token sees no later one.
        with_lse: whether the second result is wanted.

    Returns:
        ``[tokens, heads, 128]``, the type of `query`; and the log-sum-exp of the scores, ``[tokens, heads, 1]`` float32
        (one element without meaning unless `with_lse`).

    Raises:
        RuntimeError: from torch_npu, naming the argument that CANN refuses.

    Source: CANN ops-transformer, aclnnFusedInferAttentionScoreV3, constraints of TND.
    """
    mask, mode, before, after = _sparsity(query.device, causal, None)
    output, lse = operators.npu_fused_infer_attention_score(
        query,
        key,
        value,
        atten_mask=mask,
        actual_seq_lengths=query_ends,
        actual_seq_lengths_kv=kv_ends,
        num_heads=query.shape[1],
        scale=scale,
        pre_tokens=before,
        next_tokens=after,
        input_layout="TND",
        num_key_value_heads=query.shape[1],
        sparse_mode=mode,
        softmax_lse_flag=with_lse,
    )
    return output, lse


def merge_attention(
    first: torch.Tensor, first_lse: torch.Tensor, second: torch.Tensor, second_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over all keys, from attention over two parts of them.

    Args:
        first: ``[tokens, heads, size]`` float32, float16 or bfloat16, contiguous; size a multiple of 8 up to 512.
        first_lse: ``[tokens, heads, 1]`` float32, contiguous: the log-sum-exp of that part's scores, finite.
        second: like `first`.
        second_lse: like `first_lse`.

    Returns:
        Like `first` and `first_lse`.

    Source: CANN ops-transformer, aclnnAttentionUpdate.
    """
    output, lse = operators.npu_attention_update(
        [first_lse.view(-1), second_lse.view(-1)],
        [first.view(-1, first.shape[-1]), second.view(-1, second.shape[-1])],
        1,
    )
    return output.view(first.shape), lse.view(first_lse.shape)
