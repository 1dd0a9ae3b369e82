"""Steps of int8 caches in msModelSlim's checkpoints: ``C8``, beside the matrices that make keys and values.

Source: msModelSlim, quantization formats, AscendV1: of each attention layer ``k_proj.kv_cache_scale`` and
``k_proj.kv_cache_offset``, the same for ``v_proj``, a number per channel; integers are ``x / scale + offset``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.layers.quantization import kv_cache
from vllm.model_executor.utils import set_weight_attrs

from ascend_patch.patches.quantization._int8_cache import Int8CacheMethod

SCALE, OFFSET = "kv_cache_scale", "kv_cache_offset"
_PROJECTIONS = ("k", "v")


def beside_weights(create_weights: Callable[..., None], prefix: str) -> Callable[..., None]:
    """`create_weights` of a layer that makes queries, keys and values, with a place for the cache's steps.

    vLLM's models load what belongs to one of the three matrices into the layer that holds them all, with a loader that
    is told which: this is how steps per channel reach it in every version.
    """

    def creating(layer: Any, *sizes: Any, **attributes: Any) -> None:
        create_weights(layer, *sizes, **attributes)
        shape = (len(_PROJECTIONS), layer.num_kv_heads * layer.head_size)
        for name, missing in ((SCALE, torch.nan), (OFFSET, 0.0)):
            parameter = torch.nn.Parameter(torch.full(shape, missing, dtype=torch.float32), requires_grad=False)
            layer.register_parameter(name, parameter)
            set_weight_attrs(parameter, {"weight_loader": _loader(layer, f"{prefix}.{name}")})

    return creating


def _loader(layer: Any, name: str) -> Callable[..., None]:
    def load(parameter: torch.nn.Parameter, loaded: torch.Tensor, projection: str) -> None:
        numbers, width = loaded.flatten(), parameter.shape[1]
        if numbers.numel() != 1:
            # A rank's heads; with fewer heads than ranks several ranks have the same.
            part = layer.tp_rank // layer.num_kv_head_replicas
            if numbers.numel() != layer.total_num_kv_heads * layer.head_size:
                raise ValueError(
                    f"{name} of {projection}_proj has {numbers.numel()} numbers; one, or one for each of"
                    f" {layer.total_num_kv_heads} x {layer.head_size} channels were expected"
                )
            numbers = numbers[part * width : (part + 1) * width]
        parameter.data[_PROJECTIONS.index(projection)].copy_(numbers)

    return load


class ModelSlimInt8CacheMethod(Int8CacheMethod):
    """`Int8CacheMethod` with the steps that were loaded into the layer `projection`.

    Raises:
        ValueError: the patch for int8 caches is off, or there is no such layer.
    """

    def __init__(self, config: Any, prefix: str, projection: Any) -> None:
        if not hasattr(kv_cache, "NPUInt8CacheMethod"):
            raise ValueError(f"{prefix}: int8 caches need the patch quantization.int8_cache, which is not in force")
        if projection is None:
            raise ValueError(
                f"{prefix} keeps int8 by the checkpoint, but its keys and values do not come from a layer qkv_proj,"
                " where their steps are loaded: this model cannot run with an int8 cache here"
            )
        super().__init__(config, prefix)
        self._projection = projection

    def take_steps(self, layer: Any) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        if not hasattr(self._projection, SCALE):
            return None
        scales, offsets = (getattr(self._projection, name).data for name in (SCALE, OFFSET))
        delattr(self._projection, SCALE)
        delattr(self._projection, OFFSET)
        return list(zip(scales, offsets, strict=True))
