"""vLLM's attention interface, wherever this vLLM keeps it."""

from __future__ import annotations

try:
    from vllm.v1.attention.backend import (
        AttentionBackend,
        AttentionImpl,
        AttentionMetadataBuilder,
        AttentionType,
        CommonAttentionMetadata,
        MultipleOf,
    )
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
except ModuleNotFoundError:  # vLLM 0.13
    from vllm.attention.backends.abstract import AttentionBackend, AttentionImpl, AttentionType, MultipleOf
    from vllm.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.attention.backends.utils import AttentionMetadataBuilder, CommonAttentionMetadata

__all__ = [
    "AttentionBackend",
    "AttentionBackendEnum",
    "AttentionImpl",
    "AttentionMetadataBuilder",
    "AttentionType",
    "CommonAttentionMetadata",
    "MultipleOf",
]
