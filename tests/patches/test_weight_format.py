"""Which matrices are cast, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ascend_patch import npu
from ascend_patch.patches.worker._weight_format import then_cast

pytestmark = pytest.mark.usefixtures("device")


def loaded(*shape: int, dtype: torch.dtype = torch.float16, prefix: str = "model.layers.0.mlp.up_proj") -> torch.Tensor:
    layer = SimpleNamespace(weight=torch.nn.Parameter(torch.ones(shape, dtype=dtype).npu(), False), prefix=prefix)
    then_cast(lambda method, layer: None)(None, layer)
    weight: torch.Tensor = layer.weight
    return weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_matrices_of_16_bits_are_cast(dtype: torch.dtype) -> None:
    weight = loaded(40, 24, dtype=dtype)
    assert npu.is_nz(weight.data) and torch.equal(weight.cpu(), torch.ones(40, 24, dtype=dtype))
    with pytest.raises(ValueError, match=r"load all of them with reload_weights \(vLLM 0\.16 and newer\), or start"):
        weight.weight_loader(weight, torch.zeros(40, 24), 0)  # type: ignore[operator]


def test_others_stay() -> None:
    """Other types and dimensions, a gate of one column, and what latent attention takes apart after loading."""
    for shape, options in (
        ((40, 24), {"dtype": torch.float32}),
        ((2, 16, 16), {}),
        ((1, 64), {}),
        ((64, 32), {"prefix": "model.layers.0.self_attn.kv_b_proj"}),
    ):
        weight = loaded(*shape, **options)  # type: ignore[arg-type]
        assert not npu.is_nz(weight.data) and not hasattr(weight, "weight_loader")


def test_310p_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ascend_patch.npu.weights.soc_family", lambda: "310P")
    with pytest.raises(ValueError, match=r"not on 310P: 'ascend-patch disable worker\.weight_format'"):
        loaded(40, 24)
