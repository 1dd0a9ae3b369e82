"""vLLM's interface of multi-head latent attention, wherever this vLLM keeps it."""

from __future__ import annotations

try:
    from vllm.v1.attention.backend import MLAAttentionImpl
except ModuleNotFoundError:  # vLLM 0.13
    from vllm.attention.backends.abstract import MLAAttentionImpl
try:
    from vllm.model_executor.layers.attention.mla_attention import (
        MLACommonBackend,
        MLACommonImpl,
        MLACommonMetadataBuilder,
    )
except ModuleNotFoundError:  # vLLM 0.13 and 0.14
    from vllm.v1.attention.backends.mla.common import MLACommonBackend, MLACommonImpl, MLACommonMetadataBuilder

__all__ = ["MLAAttentionImpl", "MLACommonBackend", "MLACommonImpl", "MLACommonMetadataBuilder"]
