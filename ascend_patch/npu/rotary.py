"""Rotary position embedding of query and key."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family

_HAS_OPERATOR = soc_family() in ("910B", "910_93")
# Spelled out: the operator's own default is a dangling list in torch-npu 2.13.0.
_PLAIN = [0, 0, 0]
# Source: CANN ops-transformer, aclnnRopeWithSinCosCacheV2, constraints on mropeSection.
_SECTIONS = {(11, 11, 10), (16, 24, 24), (24, 20, 20), (8, 12, 12)}


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


def multimodal_rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    head_size: int,
    is_neox: bool,
    sections: list[int],
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rotary_embedding` with positions of several parts, of which each angle follows one.

    Args:
        positions: ``[parts, tokens]`` int64, rows of `cos_sin_cache`; as many parts as `sections`.
        sections: how many angles follow each part; they sum up to half of ``rotary_dim``.
        interleaved: three parts take turns, angle by angle, until a section is used up; the rest follows the first
            part. Otherwise the angles of a section lie together.

    Other arguments and the result are as for `rotary_embedding`. The fused operator takes the sections of published
    models; PyTorch operators compute the others.

    Source: CANN ops-transformer, aclnnRopeWithSinCosCacheV2.
    """
    rotary_dim = cos_sin_cache.shape[-1]
    if rotary_embedding_supports(query.dtype, head_size, rotary_dim) and tuple(sections) in _SECTIONS:
        rotated: tuple[torch.Tensor, torch.Tensor] = operators.npu_mrope(
            positions,
            query,
            key,
            cos_sin_cache,
            head_size,
            mrope_section=list(sections),
            rotary_mode="half" if is_neox else "interleave",
            cache_mode="interleave" if interleaved else "default",
        )
        return rotated
    tables = cos_sin_cache[positions].float().chunk(2, dim=-1)
    cos, sin = (_angles_by_section(table, sections, interleaved).unsqueeze(1) for table in tables)
    return (
        _rotate(query, cos, sin, head_size, rotary_dim, is_neox),
        _rotate(key, cos, sin, head_size, rotary_dim, is_neox),
    )


def _angles_by_section(table: torch.Tensor, sections: list[int], interleaved: bool) -> torch.Tensor:
    """Of ``[parts, tokens, angles]`` the part that each angle follows: ``[tokens, angles]``."""
    if not interleaved:
        return torch.cat([piece[part] for part, piece in enumerate(table.split(list(sections), dim=-1))], dim=-1)
    picked = table[0].clone()
    for part in (1, 2):
        picked[..., part : 3 * sections[part] : 3] = table[part][..., part : 3 * sections[part] : 3]
    return picked


def rotate_rows_supports(shape: Sequence[int], is_neox: bool) -> bool:
    """Whether `rotate_rows` takes ``[batch, tokens, heads, head_size]``.

    Source: CANN ops-transformer, aclnnRotaryPositionEmbedding on A2 and A3: an even head size below 896, fewer than
    1000 in a batch and fewer than 1000 heads, for GPT-J's pairs fewer than 1000 of both together.
    """
    batch, _, heads, head_size = shape
    few = (batch < 1000 and heads < 1000) if is_neox else batch * heads < 1000
    return _HAS_OPERATOR and head_size % 2 == 0 and head_size < 896 and few


def widen_rotary_table(table: torch.Tensor, is_neox: bool) -> torch.Tensor:
    """Cosines or sines ``[tokens, head_size // 2]`` as `rotate_rows` wants them: ``[1, tokens, 1, head_size]``."""
    wide = torch.cat((table, table), dim=-1) if is_neox else table.repeat_interleave(2, dim=-1)
    return wide[None, :, None]


def rotate_rows(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_neox: bool) -> torch.Tensor:
    """Rotates all elements of every head by the angles of its token; returns a new tensor.

    Args:
        x: ``[batch, tokens, heads, head_size]`` float32, float16 or bfloat16, of a shape that `rotate_rows_supports`.
        cos: ``[1, tokens, 1, head_size]`` from `widen_rotary_table`, the type of `x`; as `sin`.
        is_neox: pairs are (i, i + head_size / 2) if true (GPT-NeoX style), else (2i, 2i + 1) (GPT-J style).

    Raises:
        RuntimeError: from torch_npu, naming the argument that CANN refuses.

    Source: CANN ops-transformer, aclnnRotaryPositionEmbedding.
    """
    rotated: torch.Tensor = operators.npu_rotary_mul(x, cos, sin, rotary_mode="half" if is_neox else "interleave")
    return rotated


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
