"""What a layer's experts compute, in five operators; two more where the tokens travel between ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ascend_patch import npu
from ascend_patch.patches.moe._all_to_all import sent_to_ranks


def forward_oot(
    self: Any,
    layer: Any,
    x: Any,
    topk_weights: Any,
    topk_ids: Any,
    shared_experts: Any = None,
    shared_experts_input: Any = None,
) -> Any:
    """The weighted sum of each token's experts.

    Args:
        layer: holds ``w13_weight`` ``[experts, 2 * intermediate, hidden]`` and ``w2_weight``
            ``[experts, hidden, intermediate]``, and biases ``[experts, ...]`` where its experts have them. With expert
            parallelism these are the experts of this rank, and the sum is of theirs alone: vLLM adds up the ranks.
        x: ``[tokens, hidden]``.
        topk_weights: ``[tokens, k]`` float32.
        topk_ids: ``[tokens, k]`` integers, of all ranks' experts.
        shared_experts: run by vLLM's runner, not here; likewise their input. Not passed up to 0.21.
    """
    with_adapters = getattr(layer, "npu_with_adapters", None)  # what lora.experts leaves on a layer
    if with_adapters is not None:
        return with_adapters(layer, x, topk_weights, topk_ids)
    return over_experts(computed, layer, x, topk_weights, topk_ids)


def over_experts(compute: Callable[..., Any], layer: Any, x: Any, topk_weights: Any, topk_ids: Any) -> Any:
    """`forward_oot` with ``compute(layer, rows, counts)`` as what the experts make of their rows."""
    x, topk_weights = weighed(layer, x, topk_weights)
    chosen, num_experts, held = placed(layer, topk_ids)
    if held is not None:
        manager = layer.npu_manager
        if manager is not None and manager.fused_tokens:
            return exchanged(compute, layer, manager, x, topk_weights, chosen)
        if manager is not None and manager.sends:
            return sent_to_ranks(compute, layer, manager, x, topk_weights, chosen)
    rows, places, counts = npu.route_tokens(x, chosen, num_experts, held)
    return npu.combine_tokens(compute(layer, rows, counts), places, topk_weights, left_out=held is not None)


def weighed(layer: Any, x: Any, topk_weights: Any) -> tuple[Any, Any]:
    """Tokens and what is left to weigh their experts' answers with: nothing where the input has the weight."""
    if layer.apply_router_weight_on_input:  # one expert per token
        return x * topk_weights.to(x.dtype), None
    return x, topk_weights


def placed(layer: Any, topk_ids: Any) -> tuple[Any, int, tuple[int, int] | None]:
    """The chosen experts as `npu.route_tokens` takes them: their int32 numbers, how many there are, which are held."""
    chosen = topk_ids.int()
    if layer.expert_map is None:
        return chosen, layer.local_num_experts, None
    placement = layer.npu_placement
    return chosen if placement.table is None else placement.table[chosen], placement.numbers, placement.held


def computed(layer: Any, rows: Any, counts: Any) -> Any:
    """What this rank's experts make of their rows, ``counts[i]`` of them for expert i."""
    hidden = npu.grouped_matmul(rows, layer.w13_weight, counts, getattr(layer, "w13_bias", None))
    return npu.grouped_matmul(activated(layer, hidden), layer.w2_weight, counts, getattr(layer, "w2_bias", None))


def exchanged(compute: Callable[..., Any], layer: Any, manager: Any, x: Any, weights: Any, experts: Any) -> Any:
    """`over_experts` of the own tokens alone, which travel to all ranks' experts and back within the operators."""
    if weights is None:
        weights = x.new_ones(experts.shape, dtype=torch.float32)
    whole = (experts, weights.float(), layer.npu_placement.numbers, manager.fused_tokens, manager.ranks())
    received = npu.send_tokens(x, *whole)
    return npu.return_tokens(compute(layer, received.rows, received.counts), received, *whole)


class Placement(NamedTuple):
    """Which of all experts a rank of expert parallelism holds.

    The routing operator takes a range. Neighbouring experts are one; others are renumbered with a table, in which
    those of other ranks have one number behind the range.
    """

    numbers: int
    held: tuple[int, int]
    table: Any = None


def place(layer: Any) -> None:
    """Remember which experts a rank holds, and how its tokens travel; nothing to remember without ranks.

    Raises:
        ValueError: tokens may be sent, but not to experts that are placed so.
    """
    if layer.expert_map is not None:
        from vllm.distributed import get_ep_group

        layer.npu_placement = placement_of(layer.expert_map)
        layer.npu_manager = get_ep_group().device_communicator.all2all_manager
        if layer.npu_placement.table is not None and layer.npu_manager is not None and layer.npu_manager.moves_tokens:
            raise ValueError(
                "Tokens can be sent to ranks that hold neighbouring experts only: use --expert-placement-strategy"
                " linear, or VLLM_ASCEND_PATCH_MOE_EXCHANGE=gather."
            )


def placement_of(expert_map: Any) -> Placement:
    """Reads ``[experts]``, each expert's place on this rank or -1. Waits for the device: not for a step."""
    places = expert_map.tolist()
    experts = [expert for expert, place in enumerate(places) if place >= 0]
    if [places[expert] for expert in experts] != list(range(len(experts))):
        raise ValueError(f"The experts of a rank are expected in ascending order; vLLM places them as {places}.")
    first, end = experts[0], experts[0] + len(experts)
    if experts[-1] == end - 1:
        return Placement(len(places), (first, end))
    table = expert_map.new_tensor([place if place >= 0 else len(experts) for place in places])
    return Placement(len(experts) + 1, (0, len(experts)), table)


def forward_oot_with_router(self: Any, layer: Any, router: Any, x: Any, router_logits: Any) -> Any:
    """`forward_oot` of 0.14, which lets the router choose."""
    weights, experts = router.select_experts(hidden_states=x, router_logits=router_logits)
    return forward_oot(self, layer, x, weights, experts)


def forward_oot_and_choose(self: Any, layer: Any, x: Any, router_logits: Any) -> Any:
    """`forward_oot` of 0.13, where the layer chooses and may have an expert that computes nothing."""
    weights, experts, zero_expert = layer.select_experts(hidden_states=x, router_logits=router_logits)
    result = forward_oot(self, layer, x, weights, experts)
    return (result, zero_expert) if layer.zero_expert_num != 0 and layer.zero_expert_type is not None else result


def activated(layer: Any, hidden: Any) -> Any:
    """The layer's gated activation; `hidden` holds gate and up ``[rows, 2 * intermediate]``.

    Raises:
        NotImplementedError: for an activation that no operator here computes.
    """
    name = getattr(layer.activation, "value", layer.activation)  # text up to 0.16
    limit: Any = getattr(layer, "swiglu_limit", None)
    if name == "silu" and limit is None:
        return npu.swiglu(hidden)
    if name == "silu":
        return npu.clipped_swiglu(hidden, alpha=1.0, limit=limit, shift=0.0, interleaved=False)
    if name == "swigluoai":
        return npu.clipped_swiglu(hidden, alpha=1.702, limit=7.0, shift=1.0, interleaved=True)
    if name == "swigluoai_uninterleave":
        return npu.clipped_swiglu(
            hidden, alpha=layer.swiglu_alpha, limit=limit, shift=layer.swiglu_beta, interleaved=False
        )
    raise NotImplementedError(
        f"ascend_patch has no operator for experts with the activation {name!r}; it has silu, swigluoai and"
        " swigluoai_uninterleave."
    )
