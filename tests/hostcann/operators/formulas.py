"""Independent formulas in float64, and tolerances."""

from __future__ import annotations

import torch

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# One rounding of the result to the type, plus float32 accumulation.
RELATIVE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
ABSOLUTE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def assert_close(result: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """`result` (of a type) against a float64 reference."""
    kind = dtype or result.dtype
    torch.testing.assert_close(
        result.detach().cpu().double(), expected, rtol=RELATIVE[kind], atol=ABSOLUTE[kind], equal_nan=True
    )


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Standard normal values, exactly representable in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def rms_norm(x: torch.Tensor, gamma: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    dims = tuple(range(-gamma.dim(), 0))
    return wide / torch.sqrt(wide.square().mean(dims, keepdim=True) + eps) * gamma.double()


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, allowed: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence: query [S, H, D], key and value [L, Hkv, D], `allowed` [S, L] bool.

    Returns the output [S, H, Dv] (zeros where nothing is allowed) and the log-sum-exp [S, H] (inf there).
    """
    group = query.shape[1] // key.shape[1]
    k = key.double().repeat_interleave(group, 1)
    v = value.double().repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", query.double(), k) * scale
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    top = scores.amax(-1, keepdim=True) if scores.shape[-1] else scores.new_full((*scores.shape[:2], 1), -torch.inf)
    weights = torch.exp(scores - torch.where(top == -torch.inf, 0.0, top))
    total = weights.sum(-1, keepdim=True)
    output = torch.einsum("hqk,khd->qhd", weights / torch.where(total == 0, 1.0, total), v)
    lse = torch.where(total == 0, torch.inf, torch.log(total) + top).squeeze(-1)
    return output, lse.transpose(0, 1)


def visible(queries: int, keys: int, mode: int, before: int, after: int) -> torch.Tensor:
    """Which keys a query sees, [queries, keys], in the words of CANN's sparse modes 0 (band), 2, 3 and 4."""
    row = torch.arange(queries).unsqueeze(1)
    column = torch.arange(keys).unsqueeze(0)
    shift = keys - queries if mode in (3, 4) else 0
    if mode in (2, 3):
        return column <= row + shift
    return (column >= row + shift - before) & (column <= row + shift + after)


def triangle() -> torch.Tensor:
    """The 2048 x 2048 mask of sparse modes 2 to 4."""
    return torch.ones(2048, 2048, dtype=torch.bool).triu(1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, head_size: int, neox: bool) -> torch.Tensor:
    """x [T, heads * head_size]; cos and sin [T, rotary / 2]: rotation of complex numbers."""
    heads = x.double().reshape(x.shape[0], -1, head_size)
    half = cos.shape[-1]
    pairs = heads[..., : 2 * half]
    pairs = pairs.unflatten(-1, (2, half)).transpose(-1, -2) if neox else pairs.unflatten(-1, (half, 2))
    turned = torch.view_as_complex(pairs.contiguous()) * torch.complex(cos.double(), sin.double()).unsqueeze(1)
    parts = torch.view_as_real(turned)
    parts = parts.transpose(-1, -2) if neox else parts
    return torch.cat((parts.flatten(-2), heads[..., 2 * half :]), dim=-1).reshape(x.shape)
