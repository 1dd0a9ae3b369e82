"""What the kernel for quantized weights takes and refuses; how exact it is, tests/models/test_quantised.py says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ascend_patch.patches.quantization._int8_linear import over_rows
from ascend_patch.patches.quantization._weight_only_linear import AscendWeightOnlyKernel

pytestmark = pytest.mark.usefixtures("device")


def described(**changes: Any) -> SimpleNamespace:
    usual = {
        "partition_weight_shape": (128, 64),
        "weight_type": "uint4b8",
        "act_type": torch.bfloat16,
        "group_size": 32,
        "zero_points": False,
    }
    return SimpleNamespace(**{**usual, **changes})


@pytest.mark.parametrize(
    "changes", [{}, {"group_size": -1}, {"group_size": 128}, {"weight_type": "uint8"}, {"act_type": torch.float16}]
)
def test_what_runs(changes: dict[str, Any]) -> None:
    assert AscendWeightOnlyKernel.can_implement(described(**changes)) == (True, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"act_type": torch.float32}, "not torch.float32: start with --dtype bfloat16"),
        ({"weight_type": "uint3b4"}, "uint3b4 are not supported: quantize them to 4 or 8 bits"),
        ({"has_g_idx": True}, "quantize without act_order"),
        ({"partition_weight_shape": (128, 60)}, "60 columns per device are no multiple of 8"),
        ({"group_size": 16}, "not of 16"),
        ({"group_size": 96}, "divides the 128 rows per device, not of 96"),
    ],
)
def test_what_does_not_is_refused_with_a_reason(changes: dict[str, Any], reason: str) -> None:
    can, why = AscendWeightOnlyKernel.can_implement(described(**changes))
    assert not can and reason in str(why)


def test_no_rows_give_no_rows() -> None:
    kernel = AscendWeightOnlyKernel(described(), "weight_packed", "weight_scale")
    assert kernel.apply_weights(SimpleNamespace(), torch.empty(2, 0, 128).npu()).shape == (2, 0, 64)


def test_a_part_of_a_wider_matrix_becomes_rows() -> None:
    wide = torch.arange(24.0).view(2, 2, 6).npu()
    seen = over_rows(lambda layer, rows: rows if rows.is_contiguous() else None, 3, None, wide[..., :3])
    assert torch.equal(seen, wide[..., :3])
