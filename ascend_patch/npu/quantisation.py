"""Numbers as int8, and products of such matrices."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family
from ascend_patch.npu.weights import nz_has_a_place_for

_ADDS_INTEGERS_ONLY = soc_family() == "310P"


def int8_matmul_refuses(dtype: torch.dtype) -> str:
    """Why `int8_matmul` cannot give results of this dtype here, or "".

    Source: CANN ops-nn, aclnnQuantMatmulV5 and aclnnQuantMatmulWeightNz; 310P has the latter only, in float16.
    """
    if soc_family() == "310P" and dtype != torch.float16:
        return f"on 310P, CANN's product of int8 matrices gives float16, not {dtype}: start with --dtype float16"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"CANN's product of int8 matrices gives float16 or bfloat16, not {dtype}: start with --dtype bfloat16"
    return ""


def int8_weight_refuses(weight: torch.Tensor, nz: bool) -> str:
    """Why `int8_matmul` cannot take a weight of these sizes in this format here, or "".

    Source: CANN ops-nn, aclnnQuantMatmulV5, which 310P does not have, and aclnnQuantMatmulWeightNz.
    """
    if soc_family() != "310P" or (nz and nz_has_a_place_for(weight)):
        return ""
    return (
        f"on 310P, CANN multiplies int8 only by weights in FRACTAL_NZ with more than one row and column, not by"
        f" {list(weight.shape)} in {'FRACTAL_NZ' if nz else 'ND'}"
    )


def int8_grouped_matmul_refuses(dtype: torch.dtype) -> str:
    """Why `int8_grouped_matmul` cannot give results of this dtype here, or ""; experts need more than it does."""
    if soc_family() == "310P":
        return "experts on 310P are not there yet: take a model without experts"
    return int8_matmul_refuses(dtype)


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
        weight: int8 ``[k, columns]``, the transpose of a contiguous matrix or, made from a contiguous one, in
            FRACTAL_NZ; see `int8_weight_refuses`.
        weight_scale: float32 ``[columns]``, or ``[1]`` but on 310P.
        dtype: of the result, float16 or bfloat16; see `int8_matmul_refuses`.
        row_scale: float32 ``[rows]``; must be there for float16.
        bias: ``[columns]`` float32 or `dtype`; int32 is added before the scales.

    Returns:
        ``[rows, columns]``.

    Source: CANN ops-nn, aclnnQuantMatmulV5 and, in FRACTAL_NZ, aclnnQuantMatmulWeightNz. On 310P the latter adds int32
    only; another bias is an addition of its own there.
    """
    added = bias
    if bias is not None and _ADDS_INTEGERS_ONLY and bias.dtype != torch.int32:
        added = None
    result: torch.Tensor = operators.npu_quant_matmul(
        x, weight, weight_scale, pertoken_scale=row_scale, bias=added, output_dtype=dtype
    )
    return result if added is bias else result.add_(bias)


def weight_only_matmul_refuses(dtype: torch.dtype) -> str:
    """Why `weight_only_matmul` cannot take activations of this dtype here, or "".

    Source: CANN ops-nn, aclnnWeightQuantBatchMatmulV2; what 310P allows is another table, which nothing here follows.
    """
    if soc_family() == "310P":
        return "weights alone in int8 or int4 are made for A2 and A3, not for 310P: take a model that is not quantized"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"CANN multiplies float16 or bfloat16 by quantized weights, not {dtype}: start with --dtype bfloat16"
    return ""


def weight_only_grouped_matmul_refuses(dtype: torch.dtype, bits: int, groups: int) -> str:
    """Why `weight_only_grouped_matmul` cannot take such activations and weights here, or "".

    Args:
        groups: scales of each column.

    Source: CANN ops-transformer, aclnnGroupedMatmulV4, A16W8, A16W4 and, on 950, function.
    """
    if groups > 1 and bits == 8:
        return "CANN multiplies experts of 8 bits with one scale per column, not per group: quantize to 4 bits"
    if groups > 1 and soc_family() == "950":
        return "on 950, CANN multiplies experts of 4 bits with one scale per column, not per group: take group_size -1"
    return weight_only_matmul_refuses(dtype)


def pack_int4(weight: torch.Tensor) -> torch.Tensor:
    """Eight numbers in one, as `weight_only_matmul` takes them; waits for the device.

    Args:
        weight: int32 ``[k, columns]``, -8 to 7; columns a multiple of 8.

    Returns:
        int32 ``[k, columns / 8]``.

    Source: torch-npu, npu_convert_weight_to_int4pack.
    """
    packed: torch.Tensor = operators.npu_convert_weight_to_int4pack(weight)
    return packed


def weight_only_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    group: int = 0,
) -> torch.Tensor:
    """``x @ ((weight + offset) * scale) + bias``.

    Args:
        x: ``[rows, k]`` float16 or bfloat16, contiguous; at least one row.
        weight: int8 ``[k, columns]``, contiguous or the transpose of a contiguous matrix, or from `pack_int4`.
        scale: ``[groups, columns]`` of the type of `x`.
        offset: like `scale`.
        bias: ``[columns]``, float16 beside float16 and float32 beside bfloat16.
        group: rows of `weight` that share a scale, a multiple of 32 below k; 0 where all do.

    Returns:
        ``[rows, columns]``, the type of `x`.

    Source: CANN ops-nn, aclnnWeightQuantBatchMatmulV2; not on 310P in this form.
    """
    result: torch.Tensor = operators.npu_weight_quant_batchmatmul(
        x, weight, scale, antiquant_offset=offset, bias=bias, antiquant_group_size=group
    )
    return result
