"""Attention over the paged KV cache."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Register, Variant
from ascend_patch.patches.attention._registering import backend

_SHAPED = "ascend_patch.patches.attention._shaped.ShapedCacheBackend"
_SPECIFIED = "ascend_patch.patches.attention._specified.SpecifiedCacheBackend"


def _backend(registry: str, path: str) -> Register:
    return backend(registry, "CUSTOM", path)


PATCH = Patch(
    id="attention.paged",
    why="vLLM's attention backends are CUDA, ROCm, XPU or CPU kernels; ours calls the NPU's fused attention operators.",
    required=True,
    traced=False,
    requires=("platform.npu", "worker.slot_mapping"),
    variants=(
        Variant(versions=">=0.13.0,<0.14", rewrites=(_backend("vllm.attention.backends.registry", _SHAPED),)),
        Variant(versions=">=0.14.0,<0.29", rewrites=(_backend("vllm.v1.attention.backends.registry", _SHAPED),)),
        Variant(versions=">=0.29.0,<0.34", rewrites=(_backend("vllm.v1.attention.backends.registry", _SPECIFIED),)),
    ),
    upstream="vllm/v1/attention/backends/registry.py",
    unnecessary_when="vLLM ships an attention backend for Ascend NPUs.",
    expires=(
        Expiry("vllm.v1.attention.backends.registry:AttentionBackendEnum", mentions="NPU"),
        Expiry("vllm.v1.attention.backends.registry:AttentionBackendEnum", mentions="ASCEND"),
    ),
)
