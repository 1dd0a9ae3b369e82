"""Attention of decoders to an encoder's output."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap


def _derived_in(module: str) -> tuple[Wrap, ...]:
    return (Wrap(f"{module}:create_cross_attention_backend", by="ascend_patch.patches.attention._cross:on_npu"),)


PATCH = Patch(
    id="attention.cross",
    why="Speech models (Whisper) attend to an encoder's output, which is cached once: vLLM computes its slots"
    " request by request on the device, and says its length where no backend but CUDA's looks.",
    requires=("attention.paged", "kv_cache.shared_indices"),
    variants=(
        Variant(">=0.13.0,<0.14", _derived_in("vllm.attention.layers.cross_attention")),
        Variant(">=0.14.0,<0.34", _derived_in("vllm.model_executor.layers.attention.cross_attention")),
    ),
    upstream="vllm/model_executor/layers/attention/cross_attention.py",
    unnecessary_when="vLLM ships an attention backend for Ascend NPUs.",
    expires=(
        Expiry("vllm.v1.attention.backends.registry:AttentionBackendEnum", mentions="NPU"),
        Expiry("vllm.v1.attention.backends.registry:AttentionBackendEnum", mentions="ASCEND"),
    ),
)
