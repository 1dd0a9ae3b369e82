"""Types of the KV cache: what the user names, what the checkpoint asks for, and what of that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ascend_patch.patches.quantization._int8_cache_limits import flags_without_int8, why_not

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_AS_IT_IS = ("float16", "bfloat16")


def cache_type_refused(vllm_config: VllmConfig) -> str:
    """Why keys and values cannot be kept in the type that is asked for, and what to do; or ""."""
    cache, model = vllm_config.cache_config, vllm_config.model_config
    if cache is None or model is None:
        return ""
    chosen = cache.cache_dtype
    if chosen not in ("auto", *_AS_IT_IS):
        return (
            f"--kv-cache-dtype {chosen} needs kernels for CUDA: leave it out. int8 caches come with checkpoints that"
            " have their steps (msModelSlim's C8, or an int8 kv_cache_scheme of compressed-tensors)."
        )
    if chosen != "auto" and getattr(torch, chosen) is not model.dtype:
        return (
            f"--kv-cache-dtype {chosen}: the NPU's attention takes keys and values in the model's type, which is"
            f" {model.dtype}: leave it out, or start with {flags_without_int8(model.dtype)}."
        )
    if chosen != "auto":
        return _without_places(vllm_config)
    return _of_the_checkpoint(vllm_config)


def users_type_wins(vllm_config: VllmConfig) -> None:
    """Up to vLLM 0.21 the scheme of a checkpoint makes the cache FP8, whatever the user names; and int8 as well."""
    cache, quant = vllm_config.cache_config, vllm_config.quant_config
    if cache is not None and cache.cache_dtype in _AS_IT_IS and getattr(quant, "kv_cache_scheme", None) is not None:
        quant.kv_cache_scheme = None


def _scheme(quant: Any) -> dict[str, Any] | None:
    """What compressed-tensors says of a cache that no patch has taken over."""
    scheme = getattr(quant, "kv_cache_scheme", None)
    given = getattr(quant, "config", None)
    if scheme is None and isinstance(given, dict) and getattr(quant, "npu_int8_cache", None) is None:
        scheme = given.get("kv_cache_scheme")  # up to 0.14 vLLM does not look at it
    return scheme


def _without_places(vllm_config: VllmConfig) -> str:
    """Steps that nobody reads are loaded all the same."""
    scheme = _scheme(vllm_config.quant_config)
    if scheme is None or scheme.get("strategy") in (None, "tensor"):
        return ""
    return (
        f"The checkpoint has steps of its cache (kv_cache_scheme) with strategy {scheme.get('strategy')}, which vLLM"
        " cannot load beside keys and values as they are: quantize it without kv_cache_scheme, or per tensor."
    )


def _of_the_checkpoint(vllm_config: VllmConfig) -> str:
    quant, dtype = vllm_config.quant_config, vllm_config.model_config.dtype
    scheme = _scheme(quant)
    remedy = flags_without_int8(dtype) if not _without_places(vllm_config) else ""
    if scheme is not None and scheme.get("type") != "int":
        from vllm.model_executor.layers.quantization.compressed_tensors import compressed_tensors

        layer: Any = vars(compressed_tensors)["Attention"]
        if "kv_cache_scheme" not in layer.__init__.__code__.co_consts:
            return ""  # up to 0.14 only --kv-cache-dtype makes it so
        what = f"start with {remedy} to keep keys and values as they are" if remedy else "quantize it without"
        return (
            f"The checkpoint asks for an FP8 cache (kv_cache_scheme), which the NPU's attention does not take: {what}."
        )
    if scheme is None and getattr(quant, "npu_int8_cache", None) is None and not getattr(quant, "int8_cache", False):
        return ""
    reason = why_not(vllm_config)
    keeps = f" {remedy} keeps keys and values as they are, in a larger cache." if remedy else ""
    return reason and f"The checkpoint asks for an int8 cache: {reason}.{keeps}"
