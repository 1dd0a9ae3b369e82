"""LoRA adapters on the experts of a mixture: vLLM's slots and weights, in the grouped products of `moe.experts`."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant, Wrap

_LAYERS = "vllm.lora.layers.fused_moe"
_EXPERTS = "ascend_patch.patches.lora._experts"

_LAID_OUT = (
    Wrap(f"{_LAYERS}:FusedMoEWithLoRA._create_lora_a_weights", by=f"{_EXPERTS}:by_experts"),
    Wrap(f"{_LAYERS}:FusedMoEWithLoRA._create_lora_b_weights", by=f"{_EXPERTS}:by_experts"),
    Wrap(f"{_LAYERS}:FusedMoE3DWithLoRA._create_lora_b_weights", by=f"{_EXPERTS}:by_experts"),
)

PATCH = Patch(
    id="lora.experts",
    why="Adapters live in vLLM's Triton experts; out of tree there are none, and --enable-lora ends in an assertion.",
    requires=("lora.punica", "moe.experts"),
    variants=(
        Variant(
            versions=">=0.13.0,<0.20",
            rewrites=(
                *_LAID_OUT,
                Replace(f"{_LAYERS}:FusedMoEWithLoRA._inject_lora_into_fused_moe", by=f"{_EXPERTS}:hand_to_experts"),
            ),
        ),
        Variant(
            versions=">=0.20.0,<0.34",
            rewrites=(*_LAID_OUT, Wrap(f"{_LAYERS}:FusedMoEWithLoRA.__init__", by=f"{_EXPERTS}:with_stand_in")),
        ),
    ),
    upstream="vllm/lora/layers/fused_moe.py: adapters live in the modular kernel's Triton experts",
    unnecessary_when="An out-of-tree platform can bring an experts class, which then takes LoRA adapters itself.",
    expires=(
        Expiry("vllm.model_executor.layers.fused_moe.oracle.unquantized:backend_to_kernel_cls", mentions="OOT"),
        Expiry(f"{_LAYERS}:FusedMoEWithLoRA.__init__", mentions="current_platform"),
    ),
)
