"""Linear layers with int8 weights and activations."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant
from ascend_patch.patches.quantization._out_of_tree import kernels

_OLD = "vllm.model_executor.layers.quantization.kernels.scaled_mm"
_NEW = "vllm.model_executor.kernels.linear"
_KERNELS = "ascend_patch.patches.quantization._int8_linear:KERNELS"

PATCH = Patch(
    id="quantization.int8_linear",
    why="vLLM has no product of int8 matrices for platforms out of tree: a W8A8 checkpoint ends in a KeyError.",
    requires=("platform.npu",),
    variants=(
        Variant(versions=">=0.13.0,<0.15", rewrites=kernels(f"{_OLD}:_POSSIBLE_KERNELS", _KERNELS)),
        Variant(versions=">=0.15.0,<0.17", rewrites=kernels(f"{_OLD}:_POSSIBLE_INT8_KERNELS", _KERNELS)),
        Variant(versions=">=0.17.0,<0.34", rewrites=kernels(f"{_NEW}:_POSSIBLE_INT8_KERNELS", _KERNELS)),
    ),
    upstream="vllm/model_executor/kernels/linear/__init__.py, the kernels of each platform",
    unnecessary_when="vLLM asks an out-of-tree platform for its kernels.",
    expires=(Expiry(f"{_NEW}:init_int8_linear_kernel", mentions="OOT"),),
)
