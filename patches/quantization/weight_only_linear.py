"""Linear layers whose weights alone are quantized, to four or eight bits."""

from __future__ import annotations

from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap
from ascend_patch.patches.quantization._out_of_tree import kernels

_OLD = "vllm.model_executor.layers.quantization.kernels.mixed_precision"
_NEW = "vllm.model_executor.kernels.linear"
_KERNELS = "ascend_patch.patches.quantization._weight_only_linear:KERNELS"

PATCH = Patch(
    id="quantization.weight_only_linear",
    why="vLLM has no product with quantized weights for platforms out of tree: a W4A16 checkpoint ends in an error.",
    requires=("platform.npu",),
    variants=(
        Variant(versions=">=0.13.0,<0.16", rewrites=(Wrap(f"{_OLD}:_POSSIBLE_KERNELS", by=":only_ours"),)),
        Variant(versions=">=0.16.0,<0.17", rewrites=kernels(f"{_OLD}:_POSSIBLE_KERNELS", _KERNELS)),
        Variant(versions=">=0.17.0,<0.34", rewrites=kernels(f"{_NEW}:_POSSIBLE_KERNELS", _KERNELS)),
    ),
    upstream="vllm/model_executor/kernels/linear/__init__.py, the kernels of each platform",
    unnecessary_when="vLLM asks an out-of-tree platform for its kernels.",
    expires=(Expiry(f"{_NEW}:choose_mp_linear_kernel", mentions="OOT"),),
)


def only_ours(original: list[Any]) -> list[Any]:
    """Up to 0.15 one list is for all platforms, and some of its kernels accept what they cannot run on an NPU."""
    from ascend_patch.patches.quantization._weight_only_linear import KERNELS

    return KERNELS
