"""vLLM's router functions over torch-npu's gating operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch import npu


def topk_softmax(
    topk_weights: Any,
    topk_indices: Any,
    token_expert_indices: Any,
    gating_output: Any,
    renormalize: bool = False,
    e_score_correction_bias: Any = None,
) -> tuple[Any, Any]:
    """Softmax over all experts, then the best. Rows of padding are computed like others; nobody reads them.

    Args:
        topk_weights: ``[tokens, k]``, not used: the operator makes its results.
        topk_indices: ``[tokens, k]``; tells k and the type of the expert numbers.
        token_expert_indices: not used.
        gating_output: ``[tokens, experts]``.
        renormalize: scale the chosen weights to a sum of 1.
        e_score_correction_bias: ``[experts]``, added where experts are chosen only.

    Returns:
        Weights ``[tokens, k]`` float32 and expert numbers ``[tokens, k]``.
    """
    k = topk_indices.shape[1]
    if e_score_correction_bias is None:
        weights, experts = npu.gate_softmax(gating_output, k, renormalize)
    else:
        weights, experts = npu.gate_groups(gating_output, k, sigmoid=False, bias=e_score_correction_bias)
        if renormalize:
            weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts.to(topk_indices.dtype)


def topk_sigmoid(
    topk_weights: Any,
    topk_indices: Any,
    token_expert_indices: Any,
    gating_output: Any,
    renormalize: bool = False,
    e_score_correction_bias: Any = None,
    routed_scaling_factor: float = 1.0,
) -> tuple[Any, Any]:
    """Sigmoid of each expert, then the best; arguments and result as in `topk_softmax`."""
    k = topk_indices.shape[1]
    if renormalize:
        weights, experts = npu.gate_groups(
            gating_output, k, sigmoid=True, bias=e_score_correction_bias, factor=routed_scaling_factor
        )
        return weights, experts.to(topk_indices.dtype)
    # The operator always scales sigmoid scores to a sum of 1.
    scores = gating_output.float().sigmoid()
    choice = scores if e_score_correction_bias is None else scores + e_score_correction_bias
    experts = choice.topk(k, dim=-1)[1]
    weights = scores.gather(1, experts)
    if routed_scaling_factor != 1.0:
        weights = weights * routed_scaling_factor
    return weights, experts.to(topk_indices.dtype)


def where_operator_fits(original: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """The operator for the groups and scores that it takes; vLLM's own PyTorch for the others."""
    # It is under torch.compile, where torch-npu's tensors fail on sizes that vary; without Inductor nothing is lost.
    own = getattr(original, "_torchdynamo_orig_callable", original)

    def grouped_topk(
        hidden_states: Any,
        gating_output: Any,
        topk: int,
        renormalize: bool,
        num_expert_group: int = 0,
        topk_group: int = 0,
        scoring_func: str = "softmax",
        routed_scaling_factor: float = 1.0,
        e_score_correction_bias: Any = None,
    ) -> tuple[Any, Any]:
        sigmoid, best_two = scoring_func == "sigmoid", e_score_correction_bias is not None
        # The operator always scales sigmoid scores to a sum of 1.
        fits = npu.gate_groups_supports(gating_output.shape[1], num_expert_group, best_two)
        if not fits or (sigmoid and not renormalize):
            return own(
                hidden_states,
                gating_output,
                topk,
                renormalize,
                num_expert_group,
                topk_group,
                scoring_func,
                routed_scaling_factor,
                e_score_correction_bias,
            )
        weights, experts = npu.gate_groups(
            gating_output,
            topk,
            sigmoid=sigmoid,
            groups=num_expert_group,
            chosen_groups=topk_group,
            best_two=best_two,
            bias=e_score_correction_bias,
            factor=routed_scaling_factor if sigmoid or not renormalize else 1.0,
        )
        if renormalize and not sigmoid:
            weights = weights / weights.sum(-1, keepdim=True) * routed_scaling_factor
        return weights, experts

    return grouped_topk
