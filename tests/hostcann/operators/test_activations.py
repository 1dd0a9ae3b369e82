from __future__ import annotations

import pytest
import torch

from .formulas import FLOATS, assert_close, random


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 32), (5, 66), (3, 2, 128), (0, 64), (4, 2)])
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = random(*shape, dtype=dtype) * 4
    y = torch.ops.npu.npu_swiglu(x.npu())
    gate, up = x.double().chunk(2, -1)
    assert_close(y, gate / (1 + torch.exp(-gate)) * up)
    meta = torch.ops.npu.npu_swiglu(x.to("meta"))
    assert (y.shape, y.dtype) == (meta.shape, meta.dtype)


def test_swiglu_along_an_inner_dimension() -> None:
    x = random(3, 8, 5, dtype=torch.float32)
    gate, up = x.double().chunk(2, 1)
    assert_close(torch.ops.npu.npu_swiglu(x.npu(), dim=1), torch.nn.functional.silu(gate) * up)


def test_swiglu_saturates() -> None:
    x = torch.tensor([[-200.0, 200.0, -90.0, 1.0, 1.0, 1.0]])
    assert_close(torch.ops.npu.npu_swiglu(x.npu()), torch.tensor([[0.0, 200.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", FLOATS)
def test_fast_gelu(dtype: torch.dtype) -> None:
    x = random(4, 50, dtype=dtype) * 3
    wide = x.double()
    assert_close(torch.ops.npu.npu_fast_gelu(x.npu()), wide * torch.sigmoid(1.702 * wide))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_npu_gelu(approximate: str, dtype: torch.dtype) -> None:
    x = random(4, 50, dtype=dtype) * 3
    y = torch.ops.npu.npu_gelu(x.npu(), approximate=approximate)
    assert_close(y, torch.nn.functional.gelu(x.double(), approximate=approximate))
