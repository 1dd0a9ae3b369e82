"""Which layers of experts of a compressed-tensors checkpoint have weights alone quantized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch.patches.quantization._packed_configs import Scheme


def weight_only(original: Callable[[Any, Any, str], Any]) -> Callable[[Any, Any, str], Any]:
    """vLLM's choice of a method, and before it ours: vLLM has Marlin's kernels for them, or Triton's."""

    def get_moe_method(quant_config: Any, layer: Any, layer_name: str) -> Any:
        scheme = scheme_of(quant_config, layer, layer_name)
        if scheme is None:
            return original(quant_config, layer, layer_name)
        from ascend_patch.patches.quantization._experts_layouts import COMPRESSED
        from ascend_patch.patches.quantization._weight_only_experts import AscendWeightOnlyExperts

        return AscendWeightOnlyExperts(layer.moe_config, layer_name, scheme, COMPRESSED)

    return get_moe_method


def scheme_of(quant_config: Any, layer: Any, layer_name: str) -> Scheme | None:
    """How the experts' weights are packed; None for whatever vLLM itself answers or refuses.

    Raises:
        ValueError: a number of bits that no operator takes.
    """
    quant_config._add_fused_moe_to_target_scheme_map()
    names = [getattr(layer, f"ckpt_{which}_proj_name", f"{which}_proj") for which in ("gate", "up", "down")]
    first, *others = (quant_config.get_scheme_dict(layer, f"{layer_name}.0.{name}") for name in names)
    if first is None or any(other != first for other in others):
        return None
    weights, inputs = first.get("weights"), first.get("input_activations")
    packed = (first.get("format") or quant_config.quant_format) == "pack-quantized"
    if weights is None or not packed or not quant_config._is_wNa16_group_channel(weights, inputs):
        return None
    if weights.num_bits not in (4, 8):
        raise ValueError(f"{layer_name} has experts of {weights.num_bits} bits, which do not run here: take 4 or 8")
    order = getattr(weights.actorder, "value", weights.actorder)
    group = weights.group_size if weights.group_size and weights.group_size > 0 else -1
    return Scheme(weights.num_bits, group, shifted=not weights.symmetric, ordered=order in ("group", "dynamic"))
