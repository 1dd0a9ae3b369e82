"""RMSNorm, alone and fused with the residual addition."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Variant

_LAYERNORM = "vllm.model_executor.layers.layernorm"

PATCH = Patch(
    id="ops.rms_norm",
    why="Without it a norm is six PyTorch operators; torch-npu has one, and one for norm and residual addition.",
    traced=True,
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Add(f"{_LAYERNORM}:RMSNorm.forward_oot", by=":rms_norm"),
                Add(f"{_LAYERNORM}:GemmaRMSNorm.forward_oot", by=":gemma_rms_norm"),
            ),
        ),
    ),
    upstream="vllm/model_executor/custom_op.py: CustomOp.dispatch_forward picks forward_oot on an out-of-tree platform",
    unnecessary_when="vllm.ir has a provider for torch-npu.",
    expires=(
        Expiry("vllm.model_executor.layers.layernorm:RMSNorm.forward_oot"),
        Expiry("vllm.kernels:__all__", mentions="npu"),
    ),
)


def rms_norm(self: Any, x: Any, residual: Any = None) -> Any:
    """``x * weight / rms(x)``; with `residual` the pair of the norm of ``x + residual`` and that sum."""
    # A subclass inherits this function; what it computes itself stays as it is.
    if type(self).forward_native.__qualname__ != "RMSNorm.forward_native":
        return self.forward_native(x, residual)
    if self.variance_size_override is not None or not self.has_weight:
        return self.forward_native(x, residual)
    if residual is None:
        return npu.rms_norm(x, self.weight, self.variance_epsilon)
    return npu.add_rms_norm(x, residual, self.weight, self.variance_epsilon)


def gemma_rms_norm(self: Any, x: Any, residual: Any = None) -> Any:
    """Gemma's norm, whose weight is an offset from one."""
    if type(self).forward_native.__qualname__ != "GemmaRMSNorm.forward_native":
        return self.forward_native(x, residual)
    if residual is None:
        return npu.gemma_rms_norm(x, self.weight, self.variance_epsilon)
    summed = x + residual
    return npu.gemma_rms_norm(summed, self.weight, self.variance_epsilon), summed
