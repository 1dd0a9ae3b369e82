"""What a layer's experts compute in int8: `moe._experts` with a step per weight column and per token."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.patches.moe._experts import activated, over_experts, place
from ascend_patch.patches.quantization._parameters import make_ready
from ascend_patch.patches.quantization._weight_format import expert_weights


class AscendInt8Experts:
    """Stands where vLLM has the class of a backend's experts; the method itself computes here."""

    @staticmethod
    def is_monolithic() -> bool:
        """The router chooses, the experts compute."""
        return False


def no_backend(*names: Any, **named: Any) -> tuple[str, type[AscendInt8Experts]]:
    """vLLM chooses among kernels that an NPU does not have."""
    return "ASCEND", AscendInt8Experts


def process_weights_after_loading(self: Any, layer: Any) -> None:
    """Scales as the operator takes them, ``[experts, columns]`` float32, and weights; which experts a rank holds.

    Raises:
        ValueError: experts with biases, or a type or a device for which CANN has no product of int8.
    """
    reason = npu.int8_grouped_matmul_refuses(self.moe.in_dtype)
    if reason:
        raise ValueError(f"Experts in int8 cannot run: {reason}")
    if getattr(layer, "w13_bias", None) is not None:
        raise ValueError(
            "Experts in int8 with biases do not run here: take a checkpoint whose experts are not quantized"
        )
    for name in ("w13_weight_scale", "w2_weight_scale"):
        scale = getattr(layer, name).data.squeeze(-1).float().contiguous()
        make_ready(layer, name, scale)
    for name in ("w13_weight", "w2_weight"):
        make_ready(layer, name, expert_weights(getattr(layer, name).data))
    place(layer)


def computed(layer: Any, rows: Any, counts: Any) -> Any:
    """What this rank's experts make of their rows, ``counts[i]`` of them for expert i."""
    return _product(activated(layer, _product(rows, layer, "w13", counts)), layer, "w2", counts)


def _product(rows: Any, layer: Any, name: str, counts: Any) -> Any:
    quantised, steps = npu.quantise_rows(rows)
    weight, scale = getattr(layer, f"{name}_weight"), getattr(layer, f"{name}_weight_scale")
    return npu.int8_grouped_matmul(quantised, weight, scale, counts, rows.dtype, steps)


def apply(
    self: Any,
    layer: Any,
    x: Any,
    topk_weights: Any,
    topk_ids: Any,
    shared_experts: Any = None,
    shared_experts_input: Any = None,
) -> Any:
    """As `moe._experts.forward_oot`, with `x` float16 or bfloat16 and weights in int8."""
    return over_experts(computed, layer, x, topk_weights, topk_ids)


def apply_without_shared(
    self: Any, layer: Any, x: Any, topk_weights: Any, topk_ids: Any, shared_experts_input: Any = None
) -> Any:
    """`apply` of 0.15 to 0.21, which does not pass the shared experts."""
    return over_experts(computed, layer, x, topk_weights, topk_ids)


def apply_with_router(self: Any, layer: Any, router: Any, x: Any, router_logits: Any) -> Any:
    """`apply` of 0.14, which lets the router choose."""
    weights, experts = router.select_experts(hidden_states=x, router_logits=router_logits)
    return over_experts(computed, layer, x, weights, experts)


def choose_and_apply(self: Any, layer: Any, x: Any, router_logits: Any) -> Any:
    """`apply` of 0.13, where the layer chooses."""
    weights, experts, _ = layer.select_experts(hidden_states=x, router_logits=router_logits)
    return over_experts(computed, layer, x, weights, experts)
