"""Linear weights in the format that the NPU's matrix units read directly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

PATCH = Patch(
    id="worker.weight_format",
    why="A weight in FRACTAL_NZ is read by the cube units without rearranging it in every product.",
    on=False,  # its gain has never been measured; the official plugin leaves unquantized weights in ND, too
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Wrap(
                    "vllm.model_executor.layers.linear:UnquantizedLinearMethod.process_weights_after_loading",
                    by=":then_cast",
                ),
            ),
        ),
    ),
    upstream="vllm/model_executor/layers/linear.py, UnquantizedLinearMethod",
    unnecessary_when="torch-npu casts weights by itself, or vLLM lets an out-of-tree platform choose their format.",
    expires=(
        Expiry(
            "vllm.model_executor.layers.linear:UnquantizedLinearMethod.process_weights_after_loading",
            mentions="is_out_of_tree",
        ),
    ),
)


def then_cast(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Cast complete half and bfloat16 matrices, where ``torch.npu.config.allow_internal_format`` is on."""

    def process_weights_after_loading(self: Any, layer: Any) -> None:
        original(self, layer)
        weight = layer.weight.data
        if weight.dim() == 2 and weight.element_size() == 2:
            layer.weight.data = npu.format_cast_nz(weight)

    return process_weights_after_loading
