"""Parameters of linear layers, as vLLM's loaders of weights want them."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.utils import set_weight_attrs


def add_parameter(layer: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, **attributes: Any) -> None:
    """Give `layer` a parameter; `attributes` tell its ``weight_loader`` which dimension is what."""
    parameter = torch.nn.Parameter(torch.empty(*shape, dtype=dtype), requires_grad=False)
    layer.register_parameter(name, parameter)
    set_weight_attrs(parameter, attributes)
