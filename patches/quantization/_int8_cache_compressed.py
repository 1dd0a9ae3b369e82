"""Steps of int8 caches in compressed-tensors checkpoints: one per tensor, or one per head of the keys and values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsKVCacheMethod

from ascend_patch.patches.quantization._int8_cache import Int8CacheMethod

_PARTS = ("scale", "zero_point")


class CompressedInt8CacheMethod(Int8CacheMethod):
    """`Int8CacheMethod` with the parameters that vLLM's own method for FP8 caches has.

    Raises:
        ValueError: the scheme is not a symmetric one with steps known beforehand, per tensor or head.
    """

    def __init__(self, quant_config: Any, prefix: str) -> None:
        scheme = quant_config.npu_int8_cache
        per_head = scheme.get("strategy") == "attn_head"
        for wrong, what in (
            (scheme.get("num_bits") != 8, f"{scheme.get('num_bits')} bits: quantize to 8"),
            (scheme.get("dynamic"), "steps that are found while it runs: calibrate them"),
            (not scheme.get("symmetric", True), "zero points: quantize symmetrically"),
            (
                scheme.get("strategy") not in ("tensor", "attn_head"),
                f"steps of strategy {scheme.get('strategy')}: choose tensor or attn_head",
            ),
            (
                per_head and not hasattr(quant_config, "total_num_kv_heads"),
                "a step per head, which this vLLM does not load: take vLLM 0.18 or newer, or a step per tensor",
            ),
        ):
            if wrong:
                raise ValueError(f"{prefix}: the kv_cache_scheme has {what}")
        super().__init__(quant_config, prefix)
        heads = {name: getattr(quant_config, name, None) for name in ("total_num_heads", "total_num_kv_heads")}
        self._loading: Any = CompressedTensorsKVCacheMethod.__new__(CompressedTensorsKVCacheMethod)
        self._loading.quant_config = SimpleNamespace(kv_cache_scheme=scheme, **heads)

    def create_weights(self, layer: Any) -> None:
        super().create_weights(layer)
        self._loading.create_weights(layer)
        for name in ("k_scale", "v_scale"):
            getattr(layer, name).data.fill_(torch.nan)  # what the checkpoint does not have stays so

    def take_steps(self, layer: Any) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        if not hasattr(layer, "k_scale"):
            return None
        found = []
        for which in "kv":
            scale = getattr(layer, f"{which}_scale").data.float().flatten()
            if scale.numel() > 1:
                scale = scale.repeat_interleave(layer.head_size)
            found.append((scale, torch.zeros_like(scale)))
        for which in "qkv":
            for part in _PARTS:
                if hasattr(layer, f"{which}_{part}"):
                    delattr(layer, f"{which}_{part}")
        if hasattr(layer, "prob_scale"):
            del layer.prob_scale
        return found
