"""To the replicas of experts: in turn, and counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ascend_patch.patches.moe._load_balancing import to_replicas

pytestmark = pytest.mark.usefixtures("device")


def on_npu(values: Any, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).npu()


def test_tokens_take_turns_at_the_replicas_of_an_expert() -> None:
    """Three experts, the second with three replicas; the last token is padding, which is sent on but not counted."""
    replicas = on_npu([[0, -1, -1], [1, 3, 5], [2, 4, -1]])
    chosen = on_npu([[1, 0], [1, 2], [2, 1], [1, 2], [0, 1]], torch.int32)
    load = on_npu([7, 0, 0, 0, 0, 0], torch.int32)
    found = to_replicas(chosen, load, replicas, on_npu([1, 3, 2]), on_npu(True, torch.bool), on_npu(4, torch.int32))
    assert found.dtype == torch.int32
    assert found.tolist() == [[1, 0], [3, 4], [2, 5], [1, 4], [0, 3]]
    assert load.tolist() == [8, 2, 1, 1, 2, 1]


def test_choices_are_counted_only_where_that_is_wanted() -> None:
    load = on_npu([0, 0], torch.int32)
    each = on_npu([[0], [1]]), on_npu([1, 1])
    chosen = on_npu([[0], [1], [1]])
    to_replicas(chosen, load, *each, on_npu(False, torch.bool))
    assert load.tolist() == [0, 0]
    to_replicas(chosen, load, *each)
    assert load.tolist() == [1, 2]


def test_nothing_waits_for_the_device() -> None:
    from ascend_patch.hostcann import trace

    arguments = on_npu([[0], [1]]), on_npu([0, 0], torch.int32), on_npu([[0], [1]]), on_npu([1, 1])
    options = on_npu(True, torch.bool), on_npu(1, torch.int32)
    with trace.recording() as counts:
        to_replicas(*arguments, *options)
        assert not counts()["sync"]
