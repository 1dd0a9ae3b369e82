"""What the experts of a layer compute for tokens with different adapters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from ascend_patch import npu
from ascend_patch.patches.moe._experts import activated, computed, over_experts, placed, weighed


def hand_to_experts(self: Any) -> None:
    """Where vLLM would decorate its Triton kernel: the experts ask this layer for the adapters' matrices.

    Raises:
        ValueError: the experts are quantized.
    """
    experts_of(self.base_layer).npu_with_adapters = partial(over_experts_with_adapters, self)


def experts_of(base_layer: Any) -> Any:
    """vLLM's layer that has the experts' weights: from 0.24 on a part of the one that adapters are put on."""
    experts = getattr(base_layer, "routed_experts", base_layer)
    method = experts.quant_method
    if getattr(getattr(method, "forward_oot", None), "__module__", None) != computed.__module__:
        raise ValueError(
            f"LoRA adapters on experts need weights that are not quantized, and these are {type(method).__name__}'s:"
            " leave --enable-lora out, or the experts with --lora-target-modules (vLLM 0.19 or newer)."
        )
    return experts


def with_stand_in(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """vLLM asks the experts' kernel whether it takes adapters, and leaves them there; out of tree there is none."""

    def __init__(self: Any, base_layer: Any) -> None:
        experts = experts_of(base_layer)
        method = experts.quant_method
        method.moe_kernel = stand_in(experts.moe_config)
        try:
            original(self, base_layer)
        finally:
            method.moe_kernel = None
        # The method stays in place of the one that would call the kernel.
        base_layer._replace_quant_method(method)
        hand_to_experts(self)

    return __init__


def stand_in(moe_config: Any) -> Any:
    """What vLLM looks at of a kernel with adapters; nobody calls it."""
    from vllm.lora.layers import fused_moe

    takes_adapters = getattr(fused_moe, "LoRAExpertsMixin", object)  # asked for by type from 0.24 on
    modular = getattr(fused_moe, "FusedMoEKernelModularImpl", object)
    experts = type("Experts", (takes_adapters,), {"set_lora_context": lambda self, context: None})
    return SimpleNamespace(
        moe_config=moe_config,
        supports_lora=lambda: True,
        supports_expert_map=lambda: True,
        fused_experts=experts(),
        impl=type("Kernel", (modular,), {"__init__": lambda self: None})(),
        prepare_finalize=None,
    )


def by_experts(original: Callable[..., None]) -> Callable[..., None]:
    """The matrices of one expert's adapters side by side: with that, rows in the order of experts and adapters meet
    them group by group. Their shapes stay, ``[slots, experts, ...]``."""

    def create(self: Any, max_loras: int, lora_config: Any) -> None:
        original(self, max_loras, lora_config)
        for name in ("w13_lora_a_stacked", "w13_lora_b_stacked", "w2_lora_a_stacked", "w2_lora_b_stacked"):
            if hasattr(self, name):
                stacked = getattr(self, name)
                setattr(self, name, tuple(each.transpose(0, 1).contiguous().transpose(0, 1) for each in stacked))

    return create


def over_experts_with_adapters(adapters: Any, layer: Any, x: Any, topk_weights: Any, topk_ids: Any) -> Any:
    """`over_experts`, whose matrices are those of each token's adapter; without adapters in the batch the same.

    Rows lie in the order of experts and, within each, of adapters: they meet an expert's matrix as one group and its
    adapters' as several. A row without an adapter is put to the first one's, and what becomes of it is cleared between
    the two products. Nothing waits for the device.

    Args:
        adapters: vLLM's LoRA layer, with ``w13_lora_a_stacked`` ``[slots, experts, rank, hidden]`` for gate and up (or
            for both at once), ``w13_lora_b_stacked`` ``[slots, experts, intermediate, rank]``, and the same for ``w2``;
            laid out by `by_experts`.
    """
    meta = adapters.punica_wrapper.token_mapping_meta
    if meta.no_lora_flag_cpu.item():  # on the host; when it is set, the mapping is that of an earlier step
        return over_experts(computed, layer, x, topk_weights, topk_ids)
    x, topk_weights = weighed(layer, x, topk_weights)
    chosen, num_experts, held = placed(layer, topk_ids)
    slots = adapters.w2_lora_a_stacked[0].shape[0]
    slot = meta.token_lora_mapping[: len(x)].unsqueeze(1)
    pairs = chosen * slots + slot.clamp(min=0)
    range_held = None if held is None else (held[0] * slots, held[1] * slots)
    rows, places, counts = npu.route_tokens(x, pairs, num_experts * slots, range_held)
    per_expert = counts.view(-1, slots).sum(1)
    without = in_rows((slot < 0).expand_as(pairs), places)

    gates = npu.grouped_matmul(rows, layer.w13_weight, per_expert, getattr(layer, "w13_bias", None))
    change = partial(changed, counts=counts, without=without, places=places if adapters.fully_sharded else None)
    parts = gates_and_ups(layer, gates, len(adapters.w13_lora_b_stacked))
    for part, a, b in zip(parts, adapters.w13_lora_a_stacked, adapters.w13_lora_b_stacked, strict=True):
        change(part, rows, a, b, joined=gathered)
    hidden = activated(layer, gates)
    answers = npu.grouped_matmul(hidden, layer.w2_weight, per_expert, getattr(layer, "w2_bias", None))
    (a,), (b,) = adapters.w2_lora_a_stacked, adapters.w2_lora_b_stacked
    first = adapters.tp_rank * b.shape[2] if adapters.fully_sharded else 0
    change(answers[:, first : first + b.shape[2]], hidden, a, b, joined=summed)
    return npu.combine_tokens(answers, places, topk_weights, left_out=held is not None)


def in_rows(flags: Any, places: Any) -> Any:
    """Flags ``[tokens, k]`` as ``[rows, 1]``, in the order that `npu.route_tokens` put the rows in."""
    # What other ranks hold is at -1: one place in front takes all of it.
    spread = flags.new_zeros(flags.numel() + 1)
    return spread.scatter_(0, places.long() + 1, flags.reshape(-1))[1:].unsqueeze(1)


def gates_and_ups(layer: Any, gates: Any, slices: int) -> tuple[Any, ...]:
    """The columns of ``[rows, 2 * intermediate]`` that belong to each slice of the adapters."""
    if slices == 1:
        return (gates,)
    if getattr(layer.activation, "value", layer.activation) == "swigluoai":  # gate and up alternate
        return gates[:, ::2], gates[:, 1::2]
    return gates.chunk(2, 1)


def changed(
    columns: Any,
    rows: Any,
    a: Any,
    b: Any,
    *,
    counts: Any,
    without: Any,
    places: Any,
    joined: Callable[[Any], Any],
) -> None:
    """``columns += rows @ A.T @ B.T`` of each row's expert and adapter.

    Args:
        columns: ``[rows, width]``, a view.
        a, b: ``[slots, experts, rank, depth]`` and ``[slots, experts, width, rank]``.
        counts: ``[experts * slots]`` rows of each.
        without: ``[rows, 1]``, true where a row has no adapter.
        places: ``[tokens * k]``, the row of each, where vLLM shares the first product out to the ranks, too
            (``fully_sharded_loras``); else None.
        joined: what then makes it whole.
    """
    inner = npu.grouped_matmul(rows, groups(a), counts).masked_fill_(without, 0)
    if places is not None:
        # Each rank has its own slots for the adapters, and so its own order of rows: they meet in the order of tokens.
        whole = joined(inner.index_select(0, places))
        inner = whole.new_empty(whole.shape).index_copy_(0, places.long(), whole)
    columns.add_(npu.grouped_matmul(inner, groups(b), counts))


def gathered(inner: Any) -> Any:
    from vllm.distributed import tensor_model_parallel_all_gather

    return tensor_model_parallel_all_gather(inner)


def summed(inner: Any) -> Any:
    from vllm.distributed import tensor_model_parallel_all_reduce

    return tensor_model_parallel_all_reduce(inner)


def groups(stacked: Any) -> Any:
    """``[experts * slots, ...]`` of `by_experts`, without a copy."""
    return stacked.transpose(0, 1).view(-1, *stacked.shape[2:])
