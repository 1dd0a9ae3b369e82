"""Rotary position embedding of query and key."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family

_HAS_OPERATOR = soc_family() in ("910B", "910_93")
# Spelled out: the operator's own default is a dangling list in torch-npu 2.13.0.
_PLAIN = [0, 0, 0]


def rotary_embedding_supports(dtype: torch.dtype, head_size: int, rotary_dim: int) -> bool:
    """Whether the fused operator takes these sizes; `rotary_embedding` computes the others with PyTorch operators.

    Source: CANN ops-transformer, aclnnRopeWithSinCosCacheV2: both sizes are multiples of 32, for float32 of 16.
    """
    multiple = 16 if dtype == torch.float32 else 32
    return _HAS_OPERATOR and head_size % multiple == 0 and rotary_dim % multiple == 0


def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    is_neox: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotates the first ``rotary_dim`` elements of every head by the angles of its position; returns new tensors.

    Args:
        positions: ``[tokens]`` int64, rows of `cos_sin_cache`; at least one token.
        query: ``[tokens, heads * head_size]`` float32, float16 or bfloat16; rows may be strided.
        key: ``[tokens, kv_heads * head_size]``, the type of `query`.
        cos_sin_cache: ``[max positions, rotary_dim]``: cosines in the first half, sines in the second; the
            type of `query`.
        head_size: elements per head, at least ``rotary_dim``.
        is_neox: pairs are (i, i + rotary_dim / 2) if true (GPT-NeoX style), else (2i, 2i + 1) (GPT-J style).
    """
    rotary_dim = cos_sin_cache.shape[-1]
    if rotary_embedding_supports(query.dtype, head_size, rotary_dim):
        mode = "half" if is_neox else "interleave"
        rotated: tuple[torch.Tensor, torch.Tensor] = operators.npu_mrope(
            positions, query, key, cos_sin_cache, head_size, mrope_section=_PLAIN, rotary_mode=mode
        )
        return rotated
    cos, sin = cos_sin_cache.index_select(0, positions).float().unsqueeze(1).chunk(2, dim=-1)
    return (
        _rotate(query, cos, sin, head_size, rotary_dim, is_neox),
        _rotate(key, cos, sin, head_size, rotary_dim, is_neox),
    )


def _rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, head_size: int, rotary_dim: int, is_neox: bool
) -> torch.Tensor:
    """The operator's formula in PyTorch: float32 inside, one rounding."""
    heads = x.reshape(x.shape[0], -1, head_size)
    turning = heads[..., :rotary_dim].float()
    if is_neox:
        first, second = turning.chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    else:
        first, second = turning[..., ::2], turning[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    return torch.cat((turned.to(x.dtype), heads[..., rotary_dim:]), dim=-1).reshape(x.shape)
