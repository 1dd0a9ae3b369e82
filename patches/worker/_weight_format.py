"""The cast of loaded matrices to FRACTAL_NZ, and what is refused afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ascend_patch import npu

# Latent attention divides this matrix into those of keys and values, after it was loaded.
_TAKEN_APART = "kv_b_proj"


def then_cast(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Cast float16 and bfloat16 matrices that nothing but a product reads; others stay as they are.

    Raises:
        ValueError: on an NPU without a product for them.
    """

    def process_weights_after_loading(self: Any, layer: Any) -> None:
        original(self, layer)
        weight = layer.weight.data
        if weight.dim() != 2 or weight.element_size() != 2 or not npu.nz_has_a_place_for(weight):
            return
        if getattr(layer, "prefix", "").endswith(_TAKEN_APART):
            return
        reason = npu.nz_matmul_refuses(weight.dtype)
        if reason:
            raise ValueError(f"worker.weight_format: {reason}: 'ascend-patch disable worker.weight_format'.")
        layer.weight = torch.nn.Parameter(npu.format_cast_nz(weight.contiguous()), requires_grad=False)
        layer.weight.weight_loader = refuse_new_weights

    return process_weights_after_loading


def refuse_new_weights(*arguments: Any, **named: Any) -> None:
    """The loader of a matrix in tiles; others write into parts of it. `reload_weights` makes a new matrix."""
    raise ValueError(
        "worker.weight_format: new weights cannot be written into a matrix in FRACTAL_NZ while the engine runs, and"
        " layers before the first such one may have theirs already: load all of them with reload_weights (vLLM 0.16 and"
        " newer), or start the engine again, after 'ascend-patch disable worker.weight_format' if need be."
    )


def lies_in_tiles(parameters: dict[str, Any]) -> bool:
    """Whether these are a layer's parameters after `then_cast` cast them."""
    return any(getattr(parameter, "weight_loader", None) is refuse_new_weights for parameter in parameters.values())
