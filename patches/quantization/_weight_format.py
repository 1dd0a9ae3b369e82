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
    """`weight`, int8 ``[columns, k]``, in the format that it is to have; in ND where that has no place for its sizes.

    Raises:
        ValueError: no product takes it so.
    """
    nz = in_nz()
    reason = npu.int8_weight_refuses(weight, nz)
    if reason:
        raise ValueError(f"A linear layer in int8 cannot run: {reason} ({VARIABLE} chooses, nz by default).")
    return npu.format_cast_nz(weight.contiguous()) if nz and npu.nz_has_a_place_for(weight) else weight


def expert_weights(weights: torch.Tensor) -> torch.Tensor:
    """`weights`, int8 ``[experts, columns, k]``, likewise; they stay in ND where they do not fill their tiles."""
    return npu.format_cast_nz(weights.contiguous()) if in_nz() and npu.fills_nz_tiles(weights) else weights
