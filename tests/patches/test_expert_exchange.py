"""Tokens that go to the ranks of their experts: what the end-to-end tests do not meet."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ascend_patch.patches.moe import _experts
from ascend_patch.patches.moe._all_to_all import sent_to_ranks

pytestmark = pytest.mark.usefixtures("device")


class AllGoesAway:
    """The manager of rank 0 of two, to which the other sends nothing; what goes there comes back doubled."""

    def __init__(self) -> None:
        self.sizes: list[Any] = []

    def all_to_all(self, out: Any, x: Any, arriving: Any = None, going: Any = None) -> None:
        self.sizes.append((arriving, going))
        if arriving is None:
            out.zero_()
        elif len(out):
            assert len(x) == 0
            out.copy_(self.sent * 2)
        else:
            self.sent = x.clone()


def test_a_rank_whose_experts_nobody_chose_computes_nothing() -> None:
    def compute(layer: Any, rows: Any, counts: Any) -> Any:
        raise AssertionError("there is nothing to compute")

    layer = SimpleNamespace(npu_placement=_experts.Placement(4, (0, 2)))
    x = torch.arange(12.0).view(3, 4).npu()
    weights = torch.tensor([[0.5, 0.25], [1.0, 1.0], [0.0, 2.0]]).npu()
    chosen = torch.tensor([[2, 3], [3, 2], [2, 3]], dtype=torch.int32).npu()
    manager = AllGoesAway()
    found = sent_to_ranks(compute, layer, manager, x, weights, chosen)
    assert torch.equal(found.cpu(), x.cpu() * 2 * weights.cpu().sum(1, keepdim=True))
    assert manager.sizes == [(None, None), ([0, 0], [0, 6]), ([0, 6], [0, 0])]


@pytest.mark.parametrize("moves", [True, False])
def test_scattered_experts_and_tokens_that_move_do_not_go_together(
    moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("vllm.distributed")
    manager = SimpleNamespace(moves_tokens=moves)
    group = SimpleNamespace(device_communicator=SimpleNamespace(all2all_manager=manager))
    module.get_ep_group = lambda: group  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.distributed", module)
    layer = SimpleNamespace(expert_map=torch.tensor([0, -1, 1, -1]))
    if not moves:
        _experts.place(layer)
        assert layer.npu_manager is manager
        return
    with pytest.raises(
        ValueError, match="--expert-placement-strategy linear, or VLLM_ASCEND_PATCH_MOE_EXCHANGE=gather"
    ):
        _experts.place(layer)
