"""Steps of int8 caches in compressed-tensors checkpoints: one per tensor, or one per head of the keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.utils import set_weight_attrs

from ascend_patch.patches.quantization._int8_cache import Int8CacheMethod
from ascend_patch.patches.quantization._parameters import make_ready

_TAKEN = ("k_scale", "v_scale")
# What checkpoints have besides: a step of queries, which stay as they are, and zero points, which are zero.
_LEFT = ("q_scale", "q_zero_point", "k_zero_point", "v_zero_point")


class CompressedInt8CacheMethod(Int8CacheMethod):
    """`Int8CacheMethod` with parameters of an attention layer itself, as vLLM's own method for FP8 caches has them.

    Raises:
        ValueError: the scheme is not a symmetric one with steps known beforehand, per tensor or head.
    """

    def __init__(self, quant_config: Any, prefix: str) -> None:
        scheme = quant_config.npu_int8_cache
        for wrong, what in (
            (scheme.get("num_bits") != 8, f"{scheme.get('num_bits')} bits: quantize to 8"),
            (scheme.get("dynamic"), "steps that are found while it runs: calibrate them"),
            (not scheme.get("symmetric", True), "zero points: quantize symmetrically"),
            (
                scheme.get("strategy") not in ("tensor", "attn_head"),
                f"steps of strategy {scheme.get('strategy')}: choose tensor or attn_head",
            ),
        ):
            if wrong:
                raise ValueError(f"{prefix}: the kv_cache_scheme has {what}")
        super().__init__(quant_config, prefix)
        self._per_head = scheme.get("strategy") == "attn_head"
        self._came = False

    def create_weights(self, layer: Any) -> None:
        super().create_weights(layer)
        count = _kv_heads(layer) if self._per_head else 1
        for name in (*_TAKEN, *_LEFT):
            # What the checkpoint does not have stays so.
            parameter = torch.nn.Parameter(torch.full((count,), torch.nan, dtype=torch.float32), requires_grad=False)
            layer.register_parameter(name, parameter)
            loader = _ignore if name in _LEFT else _loader(f"{self.prefix}: {name}", self._per_head)
            set_weight_attrs(parameter, {"weight_loader": loader})

    def receive(self, layer: Any, loaded: dict[str, torch.Tensor]) -> None:
        for name in _TAKEN:
            getattr(layer, name).data.copy_(loaded.get(name, torch.tensor(torch.nan)))
        self._came = True

    def steps_came(self, layer: Any) -> bool:
        return self._came

    def take_steps(self, layer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        self._came = False
        found = []
        for name in _TAKEN:
            scale = getattr(layer, name).data
            make_ready(layer, name, scale)
            if self._per_head:
                scale = scale.repeat_interleave(layer.head_size)
            found.append((scale, torch.zeros_like(scale)))
        return found


def _kv_heads(layer: Any) -> int:
    """Of this rank."""
    if hasattr(layer, "num_kv_heads"):
        return int(layer.num_kv_heads)
    config = get_current_vllm_config()  # up to 0.14 a layer asks for its parameters before it knows its sizes
    return int(config.model_config.get_num_kv_heads(config.parallel_config))


def _loader(name: str, per_head: bool) -> Callable[..., None]:
    # vLLM loads again what has loaders whose arguments are called so.
    def load(param: torch.nn.Parameter, loaded_weight: torch.Tensor) -> None:
        numbers, mine = loaded_weight.flatten(), param.numel()
        count = numbers.numel()
        if per_head and count > 1:
            rank, ranks = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
            # A rank's heads; with fewer heads than ranks several ranks have the same.
            if count == mine * ranks or (mine == 1 and ranks % count == 0):
                first = rank * count // ranks
                numbers = numbers[first : first + mine]
        if numbers.numel() not in (1, mine):
            raise ValueError(f"{name} has {count} numbers; one{' or one per head' if per_head else ''} was expected")
        param.data.copy_(numbers.expand(mine))

    return load


def _ignore(param: torch.nn.Parameter, loaded_weight: torch.Tensor) -> None:
    """The loader of what nothing reads."""
