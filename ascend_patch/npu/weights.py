"""Weights in the layout that the matrix units read fastest."""

from __future__ import annotations

import torch
import torch_npu

from ascend_patch.npu import _operators as _operators

_FRACTAL_NZ = 29


def format_cast_nz(weight: torch.Tensor) -> torch.Tensor:
    """`weight` in the FRACTAL_NZ format if torch-npu allows private formats, otherwise `weight` itself.

    torch-npu allows them after ``torch.npu.config.allow_internal_format = True``; its default is False. The result
    holds the same values; it must not be viewed or written to. hostcann has no private formats: it refuses the cast.

    Args:
        weight: ``[rows, columns]`` float16, bfloat16 or int8.

    Source: torch-npu, npu_format_cast.
    """
    if torch_npu._C._npu_getOption("ALLOW_INTERNAL_FORMAT") != b"enable":
        return weight
    cast: torch.Tensor = torch_npu.npu_format_cast(weight, _FRACTAL_NZ)
    return cast
