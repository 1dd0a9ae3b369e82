"""Weights in the format that the matrix units read directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch_npu

from ascend_patch.npu import _operators as _operators
from ascend_patch.npu.device import soc_family

_FRACTAL_NZ = 29
_ROWS, _ROW_BYTES = 16, 32  # of a tile


def format_cast_nz(weight: torch.Tensor) -> torch.Tensor:
    """A copy of `weight` in FRACTAL_NZ: the same values, sizes and strides over memory that holds tiles.

    Products take it; ``copy_`` to or from it, also on the host, gives or takes plain values, but on 950 only to the
    host and between tensors that are both so. What works on parts of it, computes with it, or clones it while private
    formats are not allowed, goes through a conversion on the device or is refused.

    Args:
        weight: ``[..., rows, columns]`` float16, bfloat16 or int8, contiguous.

    Raises:
        RuntimeError: torch-npu left the weight in the format that it had.

    Source: torch-npu, npu_format_cast, which below CANN 9.1.0 makes such tensors only while
    ``torch.npu.config.allow_internal_format`` is set; nothing else asks for that option once the tensor is there.
    """
    with _private_formats_allowed():
        cast: torch.Tensor = torch_npu.npu_format_cast(weight, _FRACTAL_NZ)
    if not is_nz(cast):
        raise RuntimeError(
            f"torch-npu left a weight {weight.dtype} {list(weight.shape)} in format {torch_npu.get_npu_format(cast)}"
            " instead of FRACTAL_NZ (29)"
        )
    return cast


def is_nz(tensor: torch.Tensor) -> bool:
    """Whether the memory of `tensor`, which is on the NPU, holds tiles."""
    return bool(torch_npu.get_npu_format(tensor) == _FRACTAL_NZ)


def nz_matmul_refuses(dtype: torch.dtype) -> str:
    """Why no product takes weights of this dtype in FRACTAL_NZ here, or "".

    Source: CANN 8.5, aclnnMatmulWeightNz and aclnnAddmmWeightNz; the latter, for layers with a bias, 310P never has.
    """
    if soc_family() == "310P":
        return "CANN 8.5 multiplies by 16-bit weights in FRACTAL_NZ on A2 and A3, not on 310P"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"CANN multiplies by weights in FRACTAL_NZ of float16 and bfloat16, not of {dtype}"
    return ""


def nz_has_a_place_for(weight: torch.Tensor) -> bool:
    """Whether products take matrices of these sizes in FRACTAL_NZ: more than one row and one column.

    Source: CANN ops-nn, aclnnMatmulWeightNz and aclnnQuantMatmulWeightNz, constraints.
    """
    return min(weight.shape[-2:]) > 1


def fills_nz_tiles(weight: torch.Tensor) -> bool:
    """Whether no tile of these matrices has anything beyond them; grouped products take no others.

    Source: CANN ops-transformer, aclnnGroupedMatmulWeightNz.
    """
    rows, columns = weight.shape[-2:]
    return rows % _ROWS == 0 and columns % (_ROW_BYTES // weight.element_size()) == 0


@contextmanager
def _private_formats_allowed() -> Iterator[None]:
    before = torch_npu._C._npu_getOption("ALLOW_INTERNAL_FORMAT") == b"enable"
    torch.npu.config.allow_internal_format = True
    try:
        yield
    finally:
        torch.npu.config.allow_internal_format = before
