"""What latent attention on the NPU cannot do, told from the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ascend_patch import npu
from ascend_patch.patches.attention._interface import AttentionBackendEnum
from ascend_patch.patches.attention._layout import KV_BLOCK_SIZE

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def why_not(vllm_config: VllmConfig) -> str:
    """The first reason why a model with latent attention cannot use it here, or ""."""
    model, parallel, cache = vllm_config.model_config, vllm_config.parallel_config, vllm_config.cache_config
    if not AttentionBackendEnum.TRITON_MLA.get_path().startswith("ascend_patch."):
        return "it needs the patch attention.latent, which is not in force ('ascend-patch show attention.latent')"
    sizes = model.hf_text_config
    reason = npu.latent_attention_refuses(
        model.dtype,
        model.get_num_attention_heads(parallel),
        sizes.kv_lora_rank,
        sizes.qk_rope_head_dim,
        sizes.qk_nope_head_dim + sizes.qk_rope_head_dim,
        sizes.v_head_dim,
    )
    if reason:
        return reason
    if getattr(parallel, "decode_context_parallel_size", 1) * getattr(parallel, "prefill_context_parallel_size", 1) > 1:
        return "ascend_patch has no context parallelism for it"
    if cache is not None and cache.cache_dtype not in ("auto", "float16", "bfloat16"):
        return f"the cache is of the model's type, not {cache.cache_dtype}: leave --kv-cache-dtype out"
    chosen = cache is not None and cache.block_size and getattr(cache, "user_specified_block_size", True)
    if chosen and cache.block_size % KV_BLOCK_SIZE:
        return f"the operator pages in blocks of {KV_BLOCK_SIZE} tokens: leave --block-size out"
    # A block's bytes do not lie together in this cache, and connectors copy whole blocks.
    if vllm_config.kv_transfer_config is not None or getattr(cache, "kv_offloading_size", None):
        return "its cache cannot be offloaded or transferred yet: leave out the KV connector or offloading"
    return ""
