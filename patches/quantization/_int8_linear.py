"""W8A8 through CANN's quantized operators: weights per tensor or channel, activations per tensor or token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ascend_patch import npu
from ascend_patch.patches.quantization._parameters import derive, make_ready
from ascend_patch.patches.quantization._weight_format import linear_weight


class AscendInt8LinearKernel:
    """What vLLM asks of a kernel for linear layers of int8; `c` is its description of the layers."""

    def __init__(self, c: Any, *names: Any, **named: Any) -> None:
        self.config = c
        self.dtype = torch.get_default_dtype()  # the model's, while its layers are made

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        reason = npu.int8_matmul_refuses(torch.get_default_dtype())
        return not reason, reason or None

    @classmethod
    def can_implement(cls, c: Any) -> tuple[bool, str | None]:
        if c.is_static_input_scheme or c.input_symmetric:
            return True, None
        return False, "activations with a zero point per token are not supported: quantize them symmetrically"

    def input_quant_key(self) -> None:
        """Activations come as they are."""

    def process_weights_after_loading(self, layer: Any) -> None:
        """Weights as the operator takes them; what a step of the activations is worth, where that is known."""
        weight, scale = layer.weight.data, layer.weight_scale.data.flatten().float()
        if not self.config.is_channelwise:
            widths = torch.tensor(layer.logical_widths, device=scale.device)
            scale = scale.expand(len(layer.logical_widths)).repeat_interleave(widths)
        if self.config.is_static_input_scheme:
            step, zero_point = _input_range(layer)
            # The operator multiplies by a number of the activations' type: its reciprocal is the step that counts.
            reciprocal = (1 / step).to(self.dtype)
            step, shift = 1 / reciprocal.float(), None
            if zero_point is not None:
                shift = -zero_point * step * scale * weight.sum(1, dtype=torch.float32)
            derive(layer, "npu_reciprocal", reciprocal)
            derive(layer, "npu_step", step)
            derive(layer, "npu_zero_point", None if zero_point is None else zero_point.to(self.dtype))
            derive(layer, "npu_shift", shift)
            if self.dtype == torch.bfloat16:
                scale = scale * step
        make_ready(layer, "weight", linear_weight(weight))
        make_ready(layer, "weight_scale", scale)

    def apply_weights(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x @ weight + bias``; `x` ``[..., k]`` and the result ``[..., columns]`` are float16 or bfloat16."""
        product = _with_known_step if self.config.is_static_input_scheme else _with_a_step_per_row
        return over_rows(product, layer.weight.shape[1], layer, x, bias)


def over_rows(
    product: Callable[..., torch.Tensor], columns: int, layer: Any, x: torch.Tensor, *more: Any
) -> torch.Tensor:
    """``product(layer, rows, *more)`` with all dimensions of `x` but the last in one; the operators want a row.

    The rows are contiguous: not every operator takes a part of a wider matrix.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    if rows.shape[0] == 0:
        return x.new_empty(*x.shape[:-1], columns)
    return product(layer, rows, *more).view(*x.shape[:-1], -1)


def _with_a_step_per_row(layer: Any, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    quantised, steps = npu.quantise_rows(rows)
    return npu.int8_matmul(quantised, layer.weight, layer.weight_scale, rows.dtype, steps, bias)


def _with_known_step(layer: Any, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    quantised = npu.quantise(rows, layer.npu_reciprocal, layer.npu_zero_point)
    if layer.npu_shift is not None:
        bias = layer.npu_shift if bias is None else layer.npu_shift + bias
    # For float16 CANN wants a scale per row; for bfloat16 the step is in the weights' scales.
    steps = layer.npu_step.expand(rows.shape[0]).contiguous() if rows.dtype == torch.float16 else None
    return npu.int8_matmul(quantised, layer.weight, layer.weight_scale, rows.dtype, steps, bias)


def _input_range(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Step ``[1]`` and zero point ``[1]`` (float32) that hold the ranges of all matrices that lie in this one."""
    scales = layer.input_scale.data.flatten().float()
    zero_points = getattr(layer, "input_zero_point", None)  # older versions leave it out where there is none
    if zero_points is None:
        return scales.max().reshape(1), None
    points = zero_points.data.flatten().float()
    highest, lowest = (scales * (127 - points)).max(), (scales * (-128 - points)).min()
    step = ((highest - lowest) / 255).reshape(1)
    return step, (-128 - lowest / step).round()


KERNELS = [AscendInt8LinearKernel]
