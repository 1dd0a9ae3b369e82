"""From the experts of a model to their replicas on the ranks."""

from __future__ import annotations

from typing import Any

import torch


def to_replicas(
    topk_ids: Any,
    expert_load_view: Any,
    logical_to_physical_map: Any,
    logical_replica_count: Any,
    record_enabled: Any = None,
    num_unpadded_tokens: Any = None,
) -> Any:
    """The replica of each chosen expert, in turn for one token after the other.

    Args:
        topk_ids: ``[tokens, k]`` integers, the model's experts.
        expert_load_view: ``[replicas]`` int32 of all ranks; how often each was chosen is added to it.
        logical_to_physical_map: ``[experts, most replicas of one]`` int64, -1 where an expert has fewer.
        logical_replica_count: ``[experts]`` int64.
        record_enabled: one bool; nothing is added where it is false. Not passed up to 0.19.
        num_unpadded_tokens: one integer; tokens behind it are not counted. Not passed up to 0.24.

    Returns:
        ``[tokens, k]`` replicas, in the type of `topk_ids`.
    """
    tokens, k = topk_ids.shape
    chosen = topk_ids.long().flatten()
    token = torch.arange(tokens, device=chosen.device).unsqueeze(1).expand(tokens, k).flatten()
    # Indexing with brackets would wait for the device.
    turn = token % logical_replica_count.index_select(0, chosen)
    replicas = logical_to_physical_map.index_select(0, chosen).gather(1, turn.unsqueeze(1)).squeeze(1)
    counted = torch.ones_like(replicas, dtype=expert_load_view.dtype)
    if record_enabled is not None:
        counted = counted * record_enabled
    if num_unpadded_tokens is not None:
        counted = counted * (token < num_unpadded_tokens)
    expert_load_view.scatter_add_(0, replicas, counted)
    return replicas.to(topk_ids.dtype).view(tokens, k)
