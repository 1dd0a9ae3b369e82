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
from ascend_patch.patches.quantization._parameters import make_ready

SCALE, OFFSET = "kv_cache_scale", "kv_cache_offset"
_MISSING = {SCALE: torch.nan, OFFSET: 0.0}
_PROJECTIONS = ("k", "v")
_CAME = "kv_cache_steps_came"


def beside_weights(method: Any, prefix: str) -> Any:
    """The method of a layer that makes queries, keys and values, with a place for the cache's steps in that layer.

    vLLM's models load what belongs to one of the three matrices into the layer that holds them all, with a loader that
    is told which: this is how steps per channel reach it in every version.
    """
    create, process = method.create_weights, method.process_weights_after_loading

    def create_weights(layer: Any, *sizes: Any, **attributes: Any) -> None:
        create(layer, *sizes, **attributes)
        shape = (len(_PROJECTIONS), layer.num_kv_heads * layer.head_size)
        for name, missing in _MISSING.items():
            parameter = torch.nn.Parameter(torch.full(shape, missing, dtype=torch.float32), requires_grad=False)
            layer.register_parameter(name, parameter)
            set_weight_attrs(parameter, {"weight_loader": _loader(layer, f"{prefix}.{name}")})

    def process_weights_after_loading(layer: Any) -> None:
        process(layer)
        for name, missing in _MISSING.items():
            parameter = getattr(layer, name)
            for place, projection in enumerate(_PROJECTIONS):
                if projection not in getattr(parameter, "came", ()):  # a reload begins with memory as it is
                    parameter.data[place].fill_(missing)
            make_ready(layer, name, parameter.data)
        setattr(layer, _CAME, True)

    method.create_weights, method.process_weights_after_loading = create_weights, process_weights_after_loading
    return method


def _loader(layer: Any, name: str) -> Callable[..., None]:
    heads, size, part = layer.total_num_kv_heads, layer.head_size, layer.tp_rank // layer.num_kv_head_replicas

    # vLLM loads again what has loaders whose arguments are called so.
    def load(param: torch.nn.Parameter, loaded_weight: torch.Tensor, projection: str) -> None:
        numbers, width = loaded_weight.flatten(), param.shape[1]
        if numbers.numel() == 1:
            numbers = numbers.expand(width)
        elif numbers.numel() == heads * size:
            # A rank's heads; with fewer heads than ranks several ranks have the same.
            numbers = numbers[part * width : (part + 1) * width]
        else:
            raise ValueError(
                f"{name} of {projection}_proj has {numbers.numel()} numbers; one, or one for each of {heads} x {size}"
                " channels were expected"
            )
        param.data[_PROJECTIONS.index(projection)].copy_(numbers)
        if not param.is_meta:
            param.came = {*getattr(param, "came", ()), projection}

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
                " where their steps are loaded: this model cannot run with an int8 cache here, quantize it without C8"
            )
        super().__init__(config, prefix)
        self._projection = projection

    def steps_came(self, layer: Any) -> bool:
        return _CAME in vars(self._projection)

    def take_steps(self, layer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        vars(self._projection).pop(_CAME, None)
        scales, offsets = (getattr(self._projection, name).data for name in (SCALE, OFFSET))
        return list(zip(scales, offsets, strict=True))
