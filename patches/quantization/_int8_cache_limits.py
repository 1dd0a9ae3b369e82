"""What an int8 cache cannot do here, told from the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch

from ascend_patch import npu
from ascend_patch.patches.attention._layout import KV_BLOCK_SIZE

if TYPE_CHECKING:
    from vllm.config import VllmConfig

# What drafts without attention layers, and so without a cache, of its own.
_WITHOUT_CACHE = (None, "ngram", "ngram_gpu", "suffix", "medusa")


def why_not(vllm_config: VllmConfig) -> str:
    """The first reason why keys and values of a model cannot be kept as int8 here, or ""."""
    from vllm.model_executor.layers.quantization import kv_cache

    model, cache = vllm_config.model_config, vllm_config.cache_config
    if not hasattr(kv_cache, "NPUInt8CacheMethod"):
        return (
            "it needs the patch quantization.int8_cache, which is not in force ('ascend-patch show"
            " quantization.int8_cache')"
        )
    if model.use_mla:
        return "latent keys (MLA) have no int8 form here"
    if model.is_encoder_decoder:
        return "cross attention has no int8 form here"
    block_size = cache.block_size if cache.block_size and getattr(cache, "user_specified_block_size", True) else 0
    if reason := npu.int8_attention_refuses(model.dtype, model.get_head_size(), block_size or KV_BLOCK_SIZE):
        return reason
    if getattr(vllm_config.speculative_config, "method", None) not in _WITHOUT_CACHE:
        return "a drafter with a cache of its own beside it is not there yet"
    if vllm_config.kv_transfer_config is not None or getattr(cache, "kv_offloading_size", None):
        return "it cannot be offloaded or transferred yet: leave out the KV connector or offloading"
    return ""


def flags_without_int8(dtype: torch.dtype) -> str:
    """What starts a model of that type with keys and values as they are: a cache type is named, and is the model's."""
    from vllm.config import cache

    name = str(dtype).removeprefix("torch.")
    if name in get_args(cache.CacheDType):
        return f"--kv-cache-dtype {name}"
    return "--dtype bfloat16 --kv-cache-dtype bfloat16"  # float32; and up to vLLM 0.17 float16
