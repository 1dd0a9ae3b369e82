"""Attention over the paged KV cache."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Patch, Register, Variant

_REGISTRY = "vllm.v1.attention.backends.registry"

PATCH = Patch(
    id="attention.paged",
    why="vLLM's attention backends are CUDA, ROCm, XPU or CPU kernels; ours calls the NPU's fused attention operators.",
    required=True,
    traced=False,
    requires=("platform.npu", "worker.slot_mapping"),
    variants=(
        Variant(
            versions=">=0.32.0,<0.34",
            rewrites=(
                Register(
                    f"{_REGISTRY}:_ATTN_OVERRIDES",
                    key=f"{_REGISTRY}:AttentionBackendEnum.CUSTOM",
                    key_by_reference=True,
                    value="ascend_patch.patches.attention._backend.AscendAttentionBackend",
                    literal=True,
                ),
            ),
        ),
    ),
    upstream="vllm/v1/attention/backends/registry.py",
    unnecessary_when="vLLM ships an attention backend for Ascend NPUs.",
)
