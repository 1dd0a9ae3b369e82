"""Activation functions as one operator each."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Variant

_ACTIVATION = "vllm.model_executor.layers.activation"

PATCH = Patch(
    id="ops.activation",
    why="SwiGLU and GELU approximations are strings of PyTorch operators in the fallback; torch-npu has them whole.",
    traced=True,
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Add(f"{_ACTIVATION}:SiluAndMul.forward_oot", by=":silu_and_mul"),
                Add(f"{_ACTIVATION}:NewGELU.forward_oot", by=":gelu_tanh"),
                Add(f"{_ACTIVATION}:FastGELU.forward_oot", by=":gelu_tanh"),
                Add(f"{_ACTIVATION}:QuickGELU.forward_oot", by=":quick_gelu"),
            ),
        ),
    ),
    upstream="vllm/model_executor/custom_op.py: CustomOp.dispatch_forward picks forward_oot on an out-of-tree platform",
    unnecessary_when="vLLM's native activations are single PyTorch operators.",
    expires=(
        Expiry("vllm.model_executor.layers.activation:SiluAndMul.forward_oot"),
        Expiry("vllm.model_executor.layers.activation:SiluAndMul.forward_native", without="F.silu"),
    ),
)


def silu_and_mul(self: Any, x: Any) -> Any:
    """``silu(x[..., :d]) * x[..., d:]`` for `x` of ``[..., 2 * d]``."""
    # A subclass inherits this function; what it computes itself stays as it is.
    if type(self).forward_native.__qualname__ != "SiluAndMul.forward_native":
        return self.forward_native(x)
    return npu.swiglu(x)


def gelu_tanh(self: Any, x: Any) -> Any:
    """The tanh approximation of GELU, which GPT-2's and BERT's "new" and "fast" GELU both are."""
    if type(self).forward_native.__qualname__ not in ("NewGELU.forward_native", "FastGELU.forward_native"):
        return self.forward_native(x)
    return npu.gelu_tanh(x)


def quick_gelu(self: Any, x: Any) -> Any:
    """``x * sigmoid(1.702 * x)``."""
    if type(self).forward_native.__qualname__ != "QuickGELU.forward_native":
        return self.forward_native(x)
    return npu.fast_gelu(x)
