"""The experts of a layer as grouped matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Replace, Variant, Wrap

_METHOD = "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method:UnquantizedFusedMoEMethod"
_EXPERTS = "ascend_patch.patches.moe._experts"

_LOADED = Wrap(f"{_METHOD}.process_weights_after_loading", by=":then_prepare_experts")
_CHOSEN = Add(f"{_METHOD}.forward_oot", by=f"{_EXPERTS}:forward_oot")
_WITH_LAYER = Add(f"{_METHOD}.forward_oot", by=f"{_EXPERTS}:forward_oot_and_choose")
_WITH_ROUTER = Add(f"{_METHOD}.forward_oot", by=f"{_EXPERTS}:forward_oot_with_router")

PATCH = Patch(
    id="moe.experts",
    why="vLLM's experts are Triton kernels; out of tree it has none, and the first step ends in an AttributeError.",
    requires=("platform.npu", "moe.routing"),
    variants=(
        Variant(versions=">=0.13.0,<0.14", rewrites=(_LOADED, _WITH_LAYER)),
        Variant(versions=">=0.14.0,<0.15", rewrites=(_LOADED, _WITH_ROUTER)),
        Variant(versions=">=0.15.0,<0.20", rewrites=(_LOADED, _CHOSEN)),
        Variant(
            versions=">=0.20.0,<0.28",
            rewrites=(
                _LOADED,
                _CHOSEN,
                Replace(f"{_METHOD}.is_monolithic", by=":IS_MONOLITHIC"),
                Replace(f"{_METHOD}.maybe_make_prepare_finalize", by=":no_modular_kernel"),
            ),
        ),
        Variant(
            versions=">=0.28.0,<0.34",
            rewrites=(_LOADED, _CHOSEN, Add(f"{_METHOD}.is_monolithic", by=":IS_MONOLITHIC")),
        ),
    ),
    upstream="vllm/model_executor/layers/fused_moe/oracle/unquantized.py: an out-of-tree platform has no experts class",
    unnecessary_when="select_unquantized_moe_backend lets an out-of-tree platform bring its experts class.",
    expires=(
        Expiry(f"{_METHOD}.forward_oot"),
        Expiry("vllm.model_executor.layers.fused_moe.oracle.unquantized:backend_to_kernel_cls", mentions="OOT"),
    ),
)

# The router chooses and the experts compute; a monolithic kernel would do both. vLLM asks the experts class, and there
# is none.
IS_MONOLITHIC = False


def no_modular_kernel(self: Any, routing_tables: Any = None) -> None:
    """Keeps the method as it is; vLLM has made a kernel by now for every platform but those out of tree, and raises."""


def then_prepare_experts(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Biases of bfloat16 experts as float32, which is what the grouped product adds; which experts a rank holds."""
    from ascend_patch.patches.moe._experts import place

    def process_weights_after_loading(self: Any, layer: Any) -> None:
        original(self, layer)
        for name in ("w13_bias", "w2_bias"):
            bias = getattr(layer, name, None)
            if bias is not None and str(bias.dtype) == "torch.bfloat16":
                bias.data = bias.data.float()
        place(layer)

    return process_weights_after_loading
