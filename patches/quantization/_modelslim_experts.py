"""Experts of msModelSlim's checkpoints: ``W8A8_DYNAMIC``, which is what compressed-tensors has with zero points beside.

Source: msModelSlim, quantization formats, AscendV1: of each matrix weight int8 ``[n, k]``, weight_scale and
weight_offset ``[n, 1]``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationStrategy
from vllm.model_executor.utils import set_weight_attrs

from ascend_patch.patches.quantization._parameters import spend

try:
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe import (
        compressed_tensors_moe_w8a8_int8 as _home,
    )
except ImportError:  # up to 0.19
    from vllm.model_executor.layers.quantization.compressed_tensors import compressed_tensors_moe as _home

_OFFSETS = ("w13_weight_offset", "w2_weight_offset")


class Int8ExpertsMethod(_home.CompressedTensorsW8A8Int8MoEMethod):
    """vLLM's own method for int8 experts, `quantization.int8_experts` in it, and offsets that have to be zero."""

    prefix = ""

    def create_weights(self, layer: Any, *sizes: Any, **named: Any) -> None:
        super().create_weights(layer, *sizes, **named)
        for name in _OFFSETS:
            scale = getattr(layer, name.replace("offset", "scale"))
            parameter = torch.nn.Parameter(torch.empty_like(scale.data), requires_grad=False)
            layer.register_parameter(name, parameter)
            set_weight_attrs(parameter, {key: value for key, value in vars(scale).items() if key != "_weight_loader"})

    def process_weights_after_loading(self, layer: Any) -> None:
        for name in _OFFSETS:
            if bool(getattr(layer, name).any()):
                raise ValueError(
                    f"{self.prefix} has weights with zero points, which do not run here: quantize symmetrically"
                )
        spend(layer, *_OFFSETS)
        super().process_weights_after_loading(layer)


def int8_experts_method(moe_config: Any, prefix: str) -> Int8ExpertsMethod:
    """The method of a layer of experts, described as compressed-tensors describes such a layer."""
    weights = SimpleNamespace(strategy=QuantizationStrategy.CHANNEL)
    activations = SimpleNamespace(strategy=QuantizationStrategy.TOKEN, dynamic=True)
    method = Int8ExpertsMethod(weights, activations, moe_config)
    method.prefix = prefix
    return method
