"""Mixture of experts: which experts a token goes to, the way there, their matrices, and the way back."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators


def gate_softmax(logits: torch.Tensor, k: int, renormalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` experts with the largest probabilities, largest first.

    Args:
        logits: ``[tokens, experts]`` float32, float16 or bfloat16.
        k: 1 to the number of experts, at most 1024.
        renormalize: whether the chosen probabilities are scaled to a sum of 1.

    Returns:
        Probabilities ``[tokens, k]`` float32 and expert numbers ``[tokens, k]`` int32.

    Source: CANN ops-transformer, aclnnMoeGatingTopKSoftmaxV2; not on 310P. A softmax over the chosen logits, which is
    its ``renorm``, and chosen probabilities divided by their sum are the same numbers.
    """
    weights, experts, _ = operators.npu_moe_gating_top_k_softmax_v2(logits.float(), k=k, renorm=int(renormalize))
    return weights, experts


def gate_groups_supports(experts: int, groups: int, best_two: bool) -> bool:
    """Whether `gate_groups` takes this many experts in this many groups.

    Source: CANN ops-transformer, aclnnMoeGatingTopK, constraints: groups of one size, of at least two experts where the
    best two count, and 2048 experts at most after each group is rounded up to a multiple of 32.
    """
    if groups < 1 or experts % groups:
        return False
    size = experts // groups
    return size > int(best_two) and -(-size // 32) * 32 * groups <= 2048


def gate_groups(
    logits: torch.Tensor,
    k: int,
    *,
    sigmoid: bool,
    groups: int = 1,
    chosen_groups: int = 1,
    best_two: bool = False,
    bias: torch.Tensor | None = None,
    factor: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` best experts of the best groups, DeepSeek's gating.

    Args:
        logits: ``[tokens, experts]`` float32, float16 or bfloat16.
        k: experts per token; at most those of `chosen_groups` groups.
        sigmoid: sigmoid scores, whose chosen ones are scaled to a sum of 1; otherwise softmax, as they are.
        groups: groups of neighbouring experts, all of one size; see `gate_groups_supports`.
        chosen_groups: groups that experts are chosen from, 1 to `groups`.
        best_two: a group counts for the sum of its best two experts, not for its best one.
        bias: ``[experts]``, added to the scores where experts are chosen and not where they are weighed.
        factor: on the weights.

    Returns:
        Weights ``[tokens, k]`` float32 and expert numbers ``[tokens, k]`` int32, best first.

    Source: CANN ops-transformer, aclnnMoeGatingTopK; not on 310P.
    """
    weights, experts, _ = operators.npu_moe_gating_top_k(
        logits.float(),
        k,
        bias=None if bias is None else bias.float(),
        k_group=chosen_groups,
        group_count=groups,
        group_select_mode=int(best_two),
        norm_type=int(sigmoid),
        routed_scaling_factor=factor,
    )
    return weights, experts


def route_tokens(
    x: torch.Tensor, experts: torch.Tensor, num_experts: int, held: tuple[int, int] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Copies of the tokens in the order of their experts.

    Args:
        x: ``[tokens, size]`` float32, float16 or bfloat16, contiguous.
        experts: ``[tokens, k]`` int32, 0 to ``num_experts - 1``, contiguous.
        num_experts: up to 10240.
        held: the first expert that this device holds, and the one behind the last; None for all. Other experts' tokens
            are left out.

    Returns:
        The copies ``[tokens * k, size]``, of which those behind the last token of a held expert are not set; where each
        went, ``[tokens * k]`` int32 with -1 for what was left out, for `combine_tokens`; tokens per held expert int64,
        for `grouped_matmul`.

    Source: CANN ops-transformer, aclnnMoeInitRoutingV3; not on 310P.
    """
    rows, places, counts, _ = operators.npu_moe_init_routing_v2(
        x,
        experts,
        active_num=experts.numel(),
        expert_num=num_experts,
        expert_tokens_num_type=1,
        expert_tokens_num_flag=True,
        active_expert_range=[0, num_experts] if held is None else list(held),
    )
    return rows, places, counts


def grouped_matmul(
    x: torch.Tensor, weight: torch.Tensor, counts: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Consecutive rows times the matrix of their group.

    Args:
        x: ``[rows, depth]`` float32, float16 or bfloat16, contiguous; depth below 65536.
        weight: ``[groups, columns, depth]``, the layout of a linear layer's weight, the type of `x`; up to 1024 groups.
        counts: ``[groups]`` int64 on the device: rows of each group, together at most all.
        bias: ``[groups, columns]``; float16 beside float16, float32 beside float32 and bfloat16.

    Returns:
        ``[rows, columns]``; rows behind those that `counts` counts are not set.

    Source: CANN ops-transformer, aclnnGroupedMatmulV4 and V5, unquantised, groups of rows.
    """
    output: list[torch.Tensor] = operators.npu_grouped_matmul(
        [x],
        [weight.transpose(1, 2)],
        bias=None if bias is None else [bias],
        group_list=counts,
        split_item=2,
        group_type=0,
        group_list_type=1,
    )
    return output[0]


def int8_grouped_matmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    counts: torch.Tensor,
    dtype: torch.dtype,
    row_scale: torch.Tensor,
) -> torch.Tensor:
    """`grouped_matmul` of int8, in integers, times the scales of the group's columns and of the rows.

    Args:
        x: int8 ``[rows, depth]``, contiguous; depth 1 to 65535.
        weight: int8 ``[groups, depth, columns]``, the transpose of contiguous matrices; or more than one, made from
            contiguous ones, in FRACTAL_NZ (`fills_nz_tiles`); up to 1024 groups.
        weight_scale: float32 ``[groups, columns]``.
        counts: ``[groups]`` int64 on the device: rows of each group, together at most all.
        dtype: of the result, float16 or bfloat16.
        row_scale: float32 ``[rows]``.

    Returns:
        ``[rows, columns]``; rows behind those that `counts` counts are not set.

    Source: CANN ops-transformer, aclnnGroupedMatmulV4 and V5 and, in FRACTAL_NZ, aclnnGroupedMatmulWeightNz, A8W8,
    groups of rows; not on 310P here.
    """
    output: list[torch.Tensor] = operators.npu_grouped_matmul(
        [x],
        [weight],
        scale=[weight_scale],
        per_token_scale=[row_scale],
        group_list=counts,
        split_item=2,
        group_type=0,
        group_list_type=1,
        output_dtype=dtype,
    )
    return output[0]


def weight_only_grouped_matmul(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """`grouped_matmul` with ``(weight + offset) * scale``.

    Args:
        x: ``[rows, depth]`` float16 or bfloat16, contiguous; depth below 65536.
        weight: int8 ``[groups, depth, columns]``, or eight numbers of four bits in an int32, from `pack_int4`:
            ``[groups, depth, columns / 8]``, contiguous; up to 1024 groups.
        scale: ``[groups, columns]`` of the type of `x`; beside four bits, but not on 950, also
            ``[groups, parts, columns]``, with parts that divide the depth.
        offset: like `scale`; zeros where that has three dimensions.
        counts: ``[groups]`` int64 on the device: rows of each group, together at most all.

    Returns:
        ``[rows, columns]``; rows behind those that `counts` counts are not set.

    Source: CANN ops-transformer, aclnnGroupedMatmulV4 and V5, A16W8 and A16W4, groups of rows: the types that are
    listed have an offset, and zero points are for whole columns only. Not on 310P.
    """
    output: list[torch.Tensor] = operators.npu_grouped_matmul(
        [x],
        [weight],
        antiquant_scale=[scale],
        antiquant_offset=[offset],
        group_list=counts,
        split_item=2,
        group_type=0,
        group_list_type=1,
    )
    return output[0]


def combine_tokens(
    rows: torch.Tensor, places: torch.Tensor, weights: torch.Tensor | None, left_out: bool = False
) -> torch.Tensor:
    """The weighted sum of what the experts answered to each token.

    Args:
        rows: ``[tokens * k, size]`` float32, float16 or bfloat16, in the order of `route_tokens`, contiguous.
        places: from `route_tokens`.
        weights: ``[tokens, k]`` floating; None where k is 1 and every weight 1.
        left_out: `places` may hold -1, which adds nothing; a token of which everything was left out becomes zeros.

    Returns:
        ``[tokens, size]``, the type of `rows`.

    Source: CANN ops-transformer, aclnnMoeFinalizeRoutingV2, which beside bfloat16 takes float32 weights and otherwise
    those of the type of `rows`. A row index of -1 is for rows ``[experts, capacity, size]`` only, of at least as many
    experts as a token has: k experts with a capacity of one row per token are the same rows.
    """
    if weights is not None and rows.dtype != torch.bfloat16:
        weights = weights.to(rows.dtype)
    mode = 2
    if left_out:
        k = 1 if weights is None else weights.shape[1]
        rows, mode = rows.view(k, -1, rows.shape[1]), 3
    return operators.npu_moe_finalize_routing(rows, None, None, None, weights, places, None, drop_pad_mode=mode)


def clipped_swiglu(x: torch.Tensor, *, alpha: float, limit: float, shift: float, interleaved: bool) -> torch.Tensor:
    """``gate * sigmoid(alpha * gate) * (up + shift)`` along the last dimension, gate at most `limit` and up within it.

    Args:
        x: ``[..., 2 * size]`` float32, float16 or bfloat16, contiguous.
        alpha: on the gate inside the sigmoid; gpt-oss has 1.702.
        limit: above 0; gpt-oss has 7.
        shift: gpt-oss has 1.
        interleaved: gate and up alternate; otherwise gate is the first half.

    Returns:
        ``[..., size]``.

    Source: CANN ops-nn, aclnnClippedSwiglu; not on 310P.
    """
    return operators.npu_clipped_swiglu(x, dim=-1, alpha=alpha, limit=limit, bias=shift, interleaved=interleaved)
