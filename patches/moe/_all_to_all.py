"""Tokens to the ranks of their experts and back by two all-to-alls, whose sizes the host must know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ascend_patch import npu


def sent_to_ranks(compute: Callable[..., Any], layer: Any, manager: Any, x: Any, weights: Any, chosen: Any) -> Any:
    """The weighted sum of each own token's experts, which other ranks hold.

    A token goes once to each of its experts, so this moves less than gathering where there are more ranks than experts
    per token. Waits for the device once, for the sizes.

    Args:
        compute: ``compute(layer, rows, counts)``, what this rank's experts make of their rows.
        layer: with its `Placement`: as many experts on each rank, in the order of the ranks.
        manager: `NPUAll2AllManager`.
        x: ``[tokens, hidden]``.
        weights: ``[tokens, k]``, or None for 1.
        chosen: ``[tokens, k]`` int32, of all ranks' experts.
    """
    first, end = layer.npu_placement.held
    own, experts = end - first, layer.npu_placement.numbers
    rows, places, counts = npu.route_tokens(x, chosen, experts)
    coming = torch.empty_like(counts)
    manager.all_to_all(coming, counts)
    going, arriving = torch.stack((counts, coming)).view(2, experts // own, own).sum(2).tolist()
    arrived = rows.new_empty((sum(arriving), rows.shape[1]))
    manager.all_to_all(arrived, rows, arriving, going)
    answers = arrived
    if len(arrived):
        numbers = torch.arange(own, dtype=torch.int32, device=x.device).repeat(experts // own)
        expert = numbers.repeat_interleave(coming, output_size=len(arrived)).unsqueeze(1)
        sorted_rows, sorted_places, own_counts = npu.route_tokens(arrived, expert, own)
        answers = npu.combine_tokens(compute(layer, sorted_rows, own_counts), sorted_places, None)
    returned = torch.empty_like(rows)
    manager.all_to_all(returned, answers, going, arriving)
    return npu.combine_tokens(returned, places, weights)
