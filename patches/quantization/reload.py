"""New weights for quantized layers of a running engine."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

_LAYERWISE = "vllm.model_executor.model_loader.reload.layerwise"
_OURS = "ascend_patch.patches.quantization._reload"

PATCH = Patch(
    id="quantization.reload",
    why=(
        "A reload with too little, or with weights that are not quantized, would leave numbers without meaning in a"
        " quantized layer; and vLLM up to 0.15 would load a checkpoint over weights in another form."
    ),
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.16",
            rewrites=(
                Wrap("vllm.v1.worker.gpu_model_runner:GPUModelRunner.reload_weights", by=f"{_OURS}:not_if_quantized"),
            ),
        ),
        Variant(
            versions=">=0.16.0,<0.34",
            rewrites=(
                Wrap(f"{_LAYERWISE}:_layerwise_process", by=f"{_OURS}:whole_layers"),
                Wrap(f"{_LAYERWISE}:initialize_layerwise_reload", by=f"{_OURS}:from_the_start"),
                Wrap(f"{_LAYERWISE}:finalize_layerwise_reload", by=f"{_OURS}:then_caches"),
            ),
        ),
    ),
    upstream="vllm/model_executor/model_loader/reload/layerwise.py",
    unnecessary_when="_layerwise_process says which of a layer's tensors did not come, or came in another type.",
    expires=(Expiry(f"{_LAYERWISE}:_layerwise_process", mentions="ValueError"),),
)
