"""What the operators' argument checks have in common."""

from __future__ import annotations

import torch

LARGEST_INT32 = 2**31 - 1
"""Kernels count in int32."""


def expect(
    operator: str,
    name: str,
    tensor: torch.Tensor,
    dtypes: torch.dtype | tuple[torch.dtype, ...],
    dimensions: int,
    *,
    at_least: int | None = None,
    rows_apart: bool = False,
) -> None:
    """Raises what is wrong with one tensor of an operator's arguments.

    Args:
        at_least: elements that its first dimension must have.
        rows_apart: only the last dimension must be contiguous.

    Raises:
        TypeError: dtype.
        ValueError: dimensions, layout or size.
    """
    allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else dtypes
    if tensor.dtype not in allowed:
        raise TypeError(f"{operator}: {name} is {tensor.dtype}, it must be {' or '.join(map(str, allowed))}")
    if tensor.dim() != dimensions:
        raise ValueError(f"{operator}: {name} has {tensor.dim()} dimensions, it must have {dimensions}")
    if rows_apart:
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"{operator}: the last dimension of {name} must be contiguous")
    elif not tensor.is_contiguous():
        raise ValueError(f"{operator}: {name} must be contiguous")
    if at_least is not None and tensor.shape[0] < at_least:
        raise ValueError(f"{operator}: {name} has {tensor.shape[0]} entries, it must have at least {at_least}")
    if tensor.numel() > LARGEST_INT32:
        raise ValueError(f"{operator}: {name} has {tensor.numel()} elements, at most {LARGEST_INT32} can be counted")
