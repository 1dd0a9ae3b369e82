"""W4A16 and W8A16 through CANN's product with quantized weights, scales and zero points per group or column.

Where the weights come from: a matrix of unsigned numbers, packed along its rows into int32, the first in the lowest
bits. CANN takes signed ones, so both they and the zero points are moved by half the range.
"""

from __future__ import annotations

from typing import Any

import torch

from ascend_patch import npu
from ascend_patch.patches.quantization._int8_linear import over_rows
from ascend_patch.patches.quantization._parameters import derive, make_ready, spend

_BITS = {"uint4b8": 4, "uint4": 4, "uint8b128": 8, "uint8": 8}


class AscendWeightOnlyKernel:
    """What vLLM asks of a kernel for linear layers with quantized weights; `c` is its description of the layers."""

    def __init__(self, c: Any, w_q_param_name: str, w_s_param_name: str, w_zp_param_name: str | None = None,
                 *names: Any, **named: Any) -> None:  # fmt: skip
        self.config = c
        self.names = w_q_param_name, w_s_param_name, w_zp_param_name

    @classmethod
    def get_min_capability(cls) -> int:
        """NPUs have none."""
        return 0

    @classmethod
    def can_implement(cls, c: Any) -> tuple[bool, str | None]:
        inputs, columns = c.partition_weight_shape
        group = c.group_size
        reason = npu.weight_only_matmul_refuses(c.act_type) or None
        if reason is None and str(c.weight_type) not in _BITS:
            reason = f"weights of {c.weight_type} are not supported: quantize them to 4 or 8 bits"
        elif reason is None and getattr(c, "has_g_idx", False):
            reason = "groups in the order of the activations are not supported: quantize without act_order"
        elif reason is None and columns % 8:
            reason = f"CANN packs 8 columns in one number, and {columns} columns per device are no multiple of 8"
        elif reason is None and group != -1 and (group % 32 or inputs % group):
            reason = f"CANN takes groups of a multiple of 32 that divides the {inputs} rows per device, not of {group}"
        return reason is None, reason

    def process_weights_after_loading(self, layer: Any) -> None:
        """Weights, scales and zero points as the operator takes them, on the parameters' own names."""
        bits = _BITS[str(self.config.weight_type)]
        weight_name, scale_name, zero_name = self.names
        weight = unpacked(_columns_last(getattr(layer, weight_name)), bits, along=0)
        points = None
        if self.config.zero_points:
            points = unpacked(_columns_last(getattr(layer, str(zero_name))), bits, along=1)
            spend(layer, str(zero_name))
        self.keep(layer, weight, _columns_last(getattr(layer, scale_name)), points)

    def keep(self, layer: Any, weight: torch.Tensor, scale: torch.Tensor, points: torch.Tensor | None) -> None:
        """The same from unpacked numbers: `weight` ``[k, columns]``, `scale` and `points` ``[groups, columns]``."""
        bits = _BITS[str(self.config.weight_type)]
        middle = 2 ** (bits - 1)
        weight, scale = weight - middle, scale.contiguous()
        derive(layer, "npu_offset", None if points is None else (middle - points).to(scale.dtype))
        layer.npu_group = self.config.group_size if scale.shape[0] > 1 else 0
        # Columns lie side by side where groups share scales, and one behind the other where whole columns do.
        stored = npu.pack_int4(weight) if bits == 4 else weight.to(torch.int8)
        if bits == 8 and not layer.npu_group:
            stored = stored.t().contiguous().t()
        make_ready(layer, self.names[0], stored)
        make_ready(layer, self.names[1], scale)
        bias = getattr(layer, "bias", None)
        wide = bias.data.float() if bias is not None and bias.dtype == torch.bfloat16 else None
        derive(layer, "npu_wide_bias", wide)

    def apply_weights(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x @ weight + bias``; `x` ``[..., k]`` and the result ``[..., columns]`` are float16 or bfloat16."""
        return over_rows(self._product, self.config.partition_weight_shape[1], layer, x, bias)

    def _product(self, layer: Any, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        weight, scale = getattr(layer, self.names[0]), getattr(layer, self.names[1])
        if bias is not None and layer.npu_wide_bias is not None:
            bias = layer.npu_wide_bias
        return npu.weight_only_matmul(rows, weight, scale, layer.npu_offset, bias, layer.npu_group)


def _columns_last(parameter: Any) -> torch.Tensor:
    """A parameter's data with the layer's outputs in the last dimension."""
    data: torch.Tensor = parameter.data
    return data.t() if parameter.output_dim == 0 else data


def unpacked(packed: torch.Tensor, bits: int, *, along: int) -> torch.Tensor:
    """int32 with ``32 / bits`` times the size of `packed` in dimension `along`, 0 to ``2 ** bits - 1``.

    Args:
        packed: int32 with two dimensions, the first number of each in the lowest bits.
    """
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=packed.device)
    numbers = (packed.unsqueeze(along + 1) >> shifts.view(-1, *[1] * (1 - along))) & (2**bits - 1)
    return numbers.flatten(along, along + 1).contiguous()


KERNELS = [AscendWeightOnlyKernel]
