"""Which format int8 weights get on the device."""

from __future__ import annotations

import os

import torch

from ascend_patch import npu

VARIABLE = "VLLM_ASCEND_PATCH_INTEGER_FORMAT"
FORMATS = ("nz", "nd")


def in_nz() -> bool:
    """Whether the user leaves it at FRACTAL_NZ.

    That is what the official plugin does with quantized weights (its switch ENABLE_NZ is 1 by default).

    Raises:
        ValueError: there is no such format.
    """
    chosen = os.environ.get(VARIABLE) or "nz"
    if chosen not in FORMATS:
        raise ValueError(f"{VARIABLE}={chosen} is none of {', '.join(FORMATS)}: choose one or unset it.")
    return chosen == "nz"


def linear_weight(weight: torch.Tensor) -> torch.Tensor:
    """int8 ``[k, columns]`` as `npu.int8_matmul` takes it, from `weight` ``[columns, k]``.

    In FRACTAL_NZ, unless that has no place for its sizes or the user wants ND: then a view of the same memory.

    Raises:
        ValueError: no product takes it so.
    """
    nz = in_nz()
    reason = npu.int8_weight_refuses(weight, nz)
    if reason:
        raise ValueError(f"A linear layer in int8 cannot run: {reason} ({VARIABLE} chooses, nz by default).")
    return npu.format_cast_nz(weight.t().contiguous()) if nz and npu.nz_has_a_place_for(weight) else weight.t()


def expert_weights(weights: torch.Tensor) -> torch.Tensor:
    """int8 ``[experts, k, columns]`` from ``[experts, columns, k]``, likewise for `npu.int8_grouped_matmul`.

    One expert, or matrices that do not fill their tiles, stay in ND.
    """
    turned = weights.transpose(1, 2)
    nz = in_nz() and weights.shape[0] > 1 and npu.fills_nz_tiles(turned)
    return npu.format_cast_nz(turned.contiguous()) if nz else turned
