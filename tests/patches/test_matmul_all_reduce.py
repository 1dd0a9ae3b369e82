"""Which layers take the operator that multiplies and adds up over the ranks."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ascend_patch import npu
from ascend_patch.patches.comms.matmul_all_reduce import FEWEST_ROWS, communicator_of, with_fused_sum

pytestmark = pytest.mark.usefixtures("device")


class UnquantizedLinearMethod:
    """In place of vLLM's."""


@pytest.fixture(autouse=True)
def of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the patch imports of vLLM, which these tests need not load."""
    group = SimpleNamespace(device_group=object())
    modules = {
        "vllm.distributed": {"get_tp_group": lambda: group},
        "vllm.model_executor.layers.linear": {"UnquantizedLinearMethod": UnquantizedLinearMethod},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)


def layer(**changes: Any) -> Any:
    values = {
        "tp_size": 2,
        "reduce_results": True,
        "input_is_parallel": True,
        "bias": None,
        "quant_method": UnquantizedLinearMethod(),
        "weight": torch.zeros(16, 8, dtype=torch.float16),
        **changes,
    }
    return SimpleNamespace(**values)


@pytest.mark.parametrize(
    "change",
    [
        {"tp_size": 1},
        {"tp_size": 3},
        {"reduce_results": False},
        {"input_is_parallel": False},
        {"bias": torch.zeros(16)},
        {"quant_method": object()},
        {"weight": torch.zeros(16, 8)},
        {"weight": torch.zeros(8, 16, dtype=torch.float16).t()},
    ],
    ids=["one", "three", "kept-apart", "whole-input", "bias", "quantised", "float32", "transposed"],
)
def test_other_layers_go_on_as_they_are(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "ranks_of", lambda group: SimpleNamespace(name="pair"))
    assert communicator_of(layer()) == "pair"
    assert communicator_of(layer(**change)) is None


def test_steps_with_few_rows_go_on_as_they_are() -> None:
    forward = with_fused_sum(lambda self, rows: len(rows))
    unasked = SimpleNamespace()
    assert forward(unasked, torch.zeros(FEWEST_ROWS - 1, 4)) == FEWEST_ROWS - 1
    assert not vars(unasked)


@pytest.mark.parametrize(
    ("ranks", "dtype", "reason"),
    [(2, torch.float16, ""), (8, torch.bfloat16, ""), (16, torch.float16, "2, 4, 8 ranks"), (2, torch.float32, "not")],
)
def test_what_the_operator_takes_on_a2(ranks: int, dtype: torch.dtype, reason: str) -> None:
    found = npu.matmul_all_reduce_refuses(ranks, dtype)
    assert (reason in found) and bool(found) == bool(reason)
