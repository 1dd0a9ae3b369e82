"""Activations of gated and plain feed-forward layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ascend_patch.npu._operators import operators


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """``silu(first half) * second half`` along the last dimension.

    Args:
        x: ``[..., 2 * size]`` float32, float16 or bfloat16, contiguous. On 310P: no bfloat16, and rows of a multiple of
            64 bytes.

    Returns:
        ``[..., size]``.

    Source: CANN ops-nn, aclnnSwiGlu.
    """
    return operators.npu_swiglu(x, -1)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh approximation; any shape, float32, float16 or bfloat16.

    Source: CANN ops-nn, aclnnGelu, which is this approximation.
    """
    return F.gelu(x, approximate="tanh")


def fast_gelu(x: torch.Tensor) -> torch.Tensor:
    """``x * sigmoid(1.702 * x)``, also called quick GELU; any shape, float32, float16 or bfloat16; not on 310P.

    Source: CANN ops-nn, aclnnFastGelu.
    """
    return operators.npu_fast_gelu(x)
