"""Linear layers of msModelSlim's checkpoints: W8A8, with steps of the activations that are known or found per token."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from vllm.model_executor.layers.linear import LinearMethodBase

from ascend_patch import npu
from ascend_patch.patches.quantization._int8_linear import AscendInt8LinearKernel, over_rows
from ascend_patch.patches.quantization._parameters import add_parameter, derive, make_ready, spend
from ascend_patch.patches.quantization._weight_format import linear_weight

_ROWS = {"input_dim": 1, "output_dim": 0}


class Int8DynamicMethod(LinearMethodBase):
    """``W8A8_DYNAMIC``: weight int8 ``[n, k]``, weight_scale and weight_offset ``[n, 1]``."""

    def __init__(self, prefix: str) -> None:
        supported, reason = AscendInt8LinearKernel.is_supported()
        if not supported:
            raise ValueError(f"{prefix} cannot run: {reason}")
        self.prefix = prefix
        config = SimpleNamespace(is_channelwise=True, is_static_input_scheme=False, input_symmetric=True)
        self.kernel = AscendInt8LinearKernel(config)

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        rows, load = sum(output_partition_sizes), attributes["weight_loader"]
        add_parameter(layer, "weight", (rows, input_size_per_partition), torch.int8, weight_loader=load, **_ROWS)
        self._create_scales(layer, rows, len(output_partition_sizes), load)

    def _create_scales(self, layer: torch.nn.Module, rows: int, parts: int, load: Callable[..., None]) -> None:
        for name in ("weight_scale", "weight_offset"):
            add_parameter(layer, name, (rows, 1), torch.float32, weight_loader=load, output_dim=0)

    def process_weights_after_loading(self, layer: Any) -> None:
        if bool(layer.weight_offset.any()):
            raise ValueError(
                f"{self.prefix} has weights with zero points, which do not run here: quantize symmetrically"
            )
        spend(layer, "weight_offset")
        self.kernel.process_weights_after_loading(layer)

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return self.kernel.apply_weights(layer, x, bias)


class Int8StaticMethod(Int8DynamicMethod):
    """``W8A8``: ``(q @ weight + quant_bias) * deq_scale`` with q = ``x / input_scale + input_offset`` in integers.

    `quant_bias` int32 ``[n]`` has the layer's own bias and the offset in it; `deq_scale` ``[n]`` is float32, in float16
    checkpoints its bits as int64.
    """

    def _create_scales(self, layer: torch.nn.Module, rows: int, parts: int, load: Callable[..., None]) -> None:
        add_parameter(layer, "quant_bias", (rows,), torch.int32, weight_loader=load, output_dim=0)
        # Bound to the layer, as vLLM's own: what it keeps for a reload must not hold the layer by another way.
        bits = MethodType(_load_bits_as_floats, layer)
        add_parameter(layer, "deq_scale", (rows,), torch.float32, weight_loader=bits, output_dim=0)
        for name in ("input_scale", "input_offset"):
            add_parameter(layer, name, (parts,), torch.float32, weight_loader=load, needs_scalar_to_array=parts > 1)

    def process_weights_after_loading(self, layer: Any) -> None:
        for name in ("input_scale", "input_offset"):
            values = getattr(layer, name).data
            if not bool((values == values[0]).all()):
                raise ValueError(
                    f"{self.prefix} is one matrix here, but its parts have the {name} {values.tolist()}: calibrate them"
                    " together"
                )
        derive(layer, "npu_reciprocal", (1 / layer.input_scale.data[:1]).to(self.kernel.dtype))
        derive(layer, "npu_zero_point", layer.input_offset.data[:1].to(self.kernel.dtype))
        spend(layer, "input_scale", "input_offset")
        make_ready(layer, "weight", linear_weight(layer.weight.data))
        # Partial products of several ranks are added up: the bias goes to the first one's.
        layer.npu_first = not getattr(layer, "input_is_parallel", False) or layer.tp_rank == 0

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`bias` is in `quant_bias` already."""
        return over_rows(_product, layer.weight.shape[1], layer, x)


def _product(layer: Any, rows: torch.Tensor) -> torch.Tensor:
    quantised = npu.quantise(rows, layer.npu_reciprocal, layer.npu_zero_point)
    ones = None
    if rows.dtype == torch.float16:
        # The deq_scale that CANN would take without them is packed.
        ones = torch.ones(rows.shape[0], dtype=torch.float32, device=rows.device)
    added = layer.quant_bias if layer.npu_first else None
    return npu.int8_matmul(quantised, layer.weight, layer.deq_scale, rows.dtype, ones, added)


def _load_bits_as_floats(layer: Any, param: torch.nn.Parameter, loaded_weight: torch.Tensor, *shard: Any) -> None:
    if loaded_weight.dtype == torch.int64:
        loaded_weight = loaded_weight.to(torch.int32).view(torch.float32)
    layer.weight_loader(param, loaded_weight, *shard)


METHODS: dict[str, type[Int8DynamicMethod]] = {"W8A8": Int8StaticMethod, "W8A8_DYNAMIC": Int8DynamicMethod}
