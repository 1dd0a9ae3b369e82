"""Attention of models without a KV cache."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap


def _derived_in(module: str) -> tuple[Wrap, ...]:
    by = "ascend_patch.patches.attention._encoder:on_npu"
    return (Wrap(f"{module}:create_encoder_only_attention_backend", by=by),)


PATCH = Patch(
    id="attention.encoder_only",
    why="Encoders (BERT and its kin) attend in both directions and have no cache to read from.",
    requires=("attention.paged",),
    variants=(
        Variant(">=0.13.0,<0.14", _derived_in("vllm.attention.layers.encoder_only_attention")),
        Variant(">=0.14.0,<0.34", _derived_in("vllm.model_executor.layers.attention.encoder_only_attention")),
    ),
    upstream="vllm/model_executor/layers/attention/encoder_only_attention.py",
    unnecessary_when="vLLM ships an attention backend for Ascend NPUs.",
    expires=(
        Expiry("vllm.v1.attention.backends.registry:AttentionBackendEnum", mentions="NPU"),
        Expiry("vllm.v1.attention.backends.registry:AttentionBackendEnum", mentions="ASCEND"),
    ),
)
