"""Root-mean-square normalisation, over the last dimension. Computed in float32, rounded once to the input's type."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """``x / sqrt(mean(x ** 2) + eps) * weight``.

    Args:
        x: ``[..., hidden]`` float32, float16 or bfloat16 (not on 310P); may be strided.
        weight: ``[hidden]``, any of these types.
        eps: added to the mean of squares.

    Source: CANN ops-nn, aclnnRmsNorm.
    """
    normed: torch.Tensor = operators.npu_rms_norm(x, weight, eps)[0]
    return normed


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(rms_norm(x + residual), x + residual)``.

    Args:
        x: ``[..., hidden]`` float32, float16 or bfloat16 (not on 310P); may be strided.
        residual: shape and type of `x`.
        weight: ``[hidden]``, the type of `x`.
        eps: added to the mean of squares.

    Source: CANN ops-nn, aclnnAddRmsNorm.
    """
    normed, _, total = operators.npu_add_rms_norm(x, residual, weight, eps)
    return normed, total


def gemma_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`rms_norm` with ``1 + weight`` as the weight; not on 310P.

    Args:
        x: ``[..., hidden]`` float32, float16 or bfloat16; may be strided.
        weight: ``[hidden]``, the type of `x`.
        eps: added to the mean of squares.

    Source: CANN ops-nn, aclnnGemmaRmsNorm.
    """
    normed: torch.Tensor = operators.npu_gemma_rms_norm(x, weight, eps)[0]
    return normed
