"""Numbers as int8, and products of such matrices."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family


def int8_matmul_refuses(dtype: torch.dtype) -> str:
    """Why `int8_matmul` cannot give results of this dtype here, or "".

    Source: CANN ops-nn, aclnnQuantMatmulV5; 310P multiplies int8 only by weights in its own fractal format.
    """
    if soc_family() == "310P":
        return (
            "on 310P, CANN multiplies int8 only by weights in the FRACTAL_NZ format, which are not made here: take a"
            " model that is not quantized"
        )
    if dtype not in (torch.float16, torch.bfloat16):
        return f"CANN's product of int8 matrices gives float16 or bfloat16, not {dtype}"
    return ""


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row as int8, its largest magnitude as 127.

    Args:
        x: ``[rows, columns]`` float16 or bfloat16.

    Returns:
        int8 ``[rows, columns]`` and what one step of each row is worth, float32 ``[rows]``.

    Source: CANN ops-nn, aclnnDynamicQuantV2.
    """
    quantised, scales = operators.npu_dynamic_quant(x)
    return quantised, scales


def quantise(x: torch.Tensor, reciprocal: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    """``round(x * reciprocal + offset)`` as int8, limited to its range.

    Args:
        x: ``[rows, columns]`` float32, float16 or bfloat16.
        reciprocal: ``[1]`` or ``[columns]``, of the type of `x`.
        offset: like `reciprocal`.

    Source: CANN ops-nn, aclnnAscendQuantV3; on 310P without bfloat16.
    """
    result: torch.Tensor = operators.npu_quantize(x, reciprocal, offset, torch.qint8, -1, False)
    return result


def int8_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    dtype: torch.dtype,
    row_scale: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """``x @ weight * weight_scale * row_scale + bias``, the product and its sums in integers.

    Args:
        x: int8 ``[rows, k]``; there is at least one row.
        weight: int8 ``[k, columns]``, contiguous or the transpose of a contiguous matrix.
        weight_scale: float32 ``[columns]`` or ``[1]``.
        dtype: of the result, float16 or bfloat16; see `int8_matmul_refuses`.
        row_scale: float32 ``[rows]``; must be there for float16.
        bias: ``[columns]`` float32 or `dtype`; int32 is added before the scales.

    Returns:
        ``[rows, columns]``.

    Source: CANN ops-nn, aclnnQuantMatmulV5.
    """
    result: torch.Tensor = operators.npu_quant_matmul(
        x, weight, weight_scale, pertoken_scale=row_scale, bias=bias, output_dtype=dtype
    )
    return result
