"""Keys and values kept as int8, with steps that the checkpoint gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Variant, Wrap

_QUANTIZATION = "vllm.model_executor.layers.quantization"
_CONFIG = f"{_QUANTIZATION}.compressed_tensors.compressed_tensors:CompressedTensorsConfig"

PATCH = Patch(
    id="quantization.int8_cache",
    why="vLLM loads steps of FP8 caches only, and its int8 caches are Triton kernels with a step per token and head.",
    requires=("platform.npu", "attention.paged"),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                # How patches for checkpoints of other formats find it.
                Add(
                    f"{_QUANTIZATION}.kv_cache:NPUInt8CacheMethod",
                    by="ascend_patch.patches.quantization._int8_cache:Int8CacheMethod",
                ),
                Wrap(f"{_CONFIG}.from_config", by=":with_int8_caches_apart"),
                Wrap(f"{_CONFIG}.get_quant_method", by=":with_int8_caches"),
            ),
        ),
    ),
    upstream=f"{_QUANTIZATION.replace('.', '/')}/compressed_tensors/compressed_tensors.py, validate_kv_cache_scheme",
    unnecessary_when="CompressedTensorsKVCacheMethod takes int8 and asks the platform how such a cache is kept.",
    expires=(
        Expiry(
            f"{_QUANTIZATION}.compressed_tensors.compressed_tensors:"
            "CompressedTensorsKVCacheMethod.validate_kv_cache_scheme",
            mentions="'int'",
        ),
    ),
)


def with_int8_caches_apart(original: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM takes whatever scheme a cache has for FP8: keep one that is int8 out of its sight."""

    def from_config(cls: Any, config: dict[str, Any]) -> Any:
        made = original(cls, config)
        scheme = config.get("kv_cache_scheme")  # up to 0.14 what is made does not get it
        if scheme is not None and scheme.get("type") == "int":
            made.npu_int8_cache, made.kv_cache_scheme = scheme, None
        return made

    return from_config


def with_int8_caches(original: Callable[..., Any]) -> Callable[..., Any]:
    """The method of an attention layer whose cache is int8."""

    def get_quant_method(self: Any, layer: Any, prefix: str) -> Any:
        if getattr(self, "npu_int8_cache", None) is None or not hasattr(layer, "kv_cache_torch_dtype"):
            return original(self, layer, prefix)
        from ascend_patch.patches.quantization._int8_cache_compressed import CompressedInt8CacheMethod

        return CompressedInt8CacheMethod(self, prefix)

    return get_quant_method
