"""How checkpoints store an expert's matrix whose weights alone are quantized.

Sources: compressed-tensors, PackedQuantizationCompressor (`pack-quantized`); AutoGPTQ and GPTQModel, QuantLinear.pack;
AutoAWQ, WQLinear_GEMM.from_linear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ascend_patch.patches.quantization._packed_configs import Scheme
from ascend_patch.patches.quantization._packed_linear import gptq_zero_points, in_awq_order
from ascend_patch.patches.quantization._weight_only_linear import unpacked


class Layout(NamedTuple):
    """Tensors of a matrix ``[k, n]``, with n outputs.

    Attributes:
        weight, scale, points: the names of its parts; `points` are zero points.
        columns: the dimension of each part that lies along n; the other one lies along k or its groups.
        packed: the dimension of the weight in which an int32 holds several numbers; of zero points it is `columns`.
        numbers: the weight as int32 ``[k, n]`` from 0.
        zero_points: int32 ``[groups, n]``.
        order: the name of the part that says which group each row is in, if there is one.
        sizes: the name of the part that holds n and k, if there is one.
    """

    weight: str
    scale: str
    points: str
    columns: int
    packed: int
    numbers: Callable[[torch.Tensor, Scheme], torch.Tensor]
    zero_points: Callable[[torch.Tensor, Scheme], torch.Tensor]
    order: str = ""
    sizes: str = ""


COMPRESSED = Layout(
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    columns=0,
    packed=1,
    numbers=lambda weight, scheme: unpacked(weight, scheme.bits, along=1).t(),
    zero_points=lambda points, scheme: unpacked(points, scheme.bits, along=0).t(),
    sizes="weight_shape",
)
GPTQ = Layout(
    "qweight",
    "scales",
    "qzeros",
    columns=1,
    packed=0,
    numbers=lambda weight, scheme: unpacked(weight, scheme.bits, along=0),
    zero_points=gptq_zero_points,
    order="g_idx",
)
AWQ = Layout(
    "qweight",
    "scales",
    "qzeros",
    columns=1,
    packed=1,
    numbers=lambda weight, scheme: in_awq_order(weight),
    zero_points=lambda points, scheme: in_awq_order(points),
)
