"""Parameters of quantized layers: as a checkpoint has them while it is loaded, and then as the operators take them."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.utils import set_weight_attrs


def add_parameter(layer: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, **attributes: Any) -> None:
    """Give `layer` a parameter; `attributes` tell its ``weight_loader`` which dimension is what."""
    parameter = torch.nn.Parameter(torch.empty(*shape, dtype=dtype), requires_grad=False)
    layer.register_parameter(name, parameter)
    set_weight_attrs(parameter, attributes)


def make_ready(layer: Any, name: str, tensor: torch.Tensor) -> None:
    """Put what the operator takes into the place of what was loaded; nothing is loaded there as it is any more."""
    parameter = torch.nn.Parameter(tensor, requires_grad=False)
    set_weight_attrs(parameter, {"weight_loader": refuse_to_load})
    setattr(layer, name, parameter)


def derive(layer: Any, name: str, tensor: torch.Tensor | None) -> None:
    """Keep what was computed from loaded weights as one of the layer's parameters, if there is any.

    A reload then writes new values where the old ones were: a captured graph goes on reading there.
    """
    if tensor is None:
        setattr(layer, name, None)
    else:
        make_ready(layer, name, tensor)


def spend(layer: Any, *names: str) -> None:
    """Let go of what was only needed to get ready; its name stays, so that loading it again is refused as well."""
    for name in names:
        parameter = getattr(layer, name, None)
        if parameter is not None:
            make_ready(layer, name, parameter.data.new_empty(0))


def refuse_to_load(param: Any, loaded_weight: Any, *shard: Any, **named: Any) -> None:
    """The loader of weights that are ready.

    Raises:
        ValueError: always, with what to call instead.
    """
    raise ValueError(
        "The weights of this engine's quantized layers lie as the NPU's operators take them, and model.load_weights"
        " would put a checkpoint's over them. Layers before the first quantized one may have the new weights already:"
        " load all of them with reload_weights(weights_iterator=...) or reload_weights(weights_path=...) of the worker"
        " (vLLM 0.16 and newer), or start the engine again."
    )


def is_ready(parameters: dict[str, Any]) -> bool:
    """Whether these are a layer's parameters after `make_ready`."""
    return any(getattr(parameter, "weight_loader", None) is refuse_to_load for parameter in parameters.values())
