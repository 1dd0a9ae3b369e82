"""The attention backend of vLLM since 0.29, where a backend alters the description of its KV cache."""

from __future__ import annotations

from dataclasses import replace

from vllm.utils.torch_utils import get_dtype_size
from vllm.v1.kv_cache_interface import AttentionSpec
from vllm.v1.kv_cache_layout import KVCacheLayout

from ascend_patch.patches.attention._backend import AscendAttentionBackend


class SpecifiedCacheBackend(AscendAttentionBackend):
    """`AscendAttentionBackend` with a KV cache of two planes per layer."""

    @classmethod
    def customize_spec(cls, spec: AttentionSpec) -> AttentionSpec:
        """Store keys and values as two planes instead of interleaving them per head."""
        if spec.state_content_bytes is not None:
            return spec
        if spec.head_size != spec.head_size_v:
            raise ValueError(
                f"ascend_patch's attention wants keys and values of one head size, not {spec.head_size} and"
                f" {spec.head_size_v}."
            )
        plane_bytes = spec.num_kv_heads * spec.head_size * get_dtype_size(spec.dtype)
        return replace(spec, num_head_slots=2, state_content_bytes=plane_bytes)

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        # Only with the plane index outside the block index is each plane contiguous.
        return (KVCacheLayout.LHBNC,)
