"""Grouped products whose weights alone are quantised, against sums in float64."""

from __future__ import annotations

import pytest
import torch

from .formulas import RELATIVE, random

npu = torch.ops.npu
COUNTS = [2, 0, 3, 1]
ROWS, DEPTH, COLUMNS = 7, 64, 24
HALVES = [torch.float16, torch.bfloat16]


def packed(numbers: torch.Tensor) -> torch.Tensor:
    """int32 ``[..., n / 8]`` of -8 to 7 ``[..., n]``, the first in the lowest bits."""
    bits = (numbers.long() & 15).unflatten(-1, (-1, 8))
    whole = (bits << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).int()


def product(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    (out,) = npu.npu_grouped_matmul(
        [x.npu()],
        [weight if weight.device.type == "npu" else weight.npu()],
        bias=None if bias is None else [bias.npu()],
        antiquant_scale=[scale.npu()],
        antiquant_offset=[offset.npu()],
        group_list=torch.tensor(COUNTS).npu(),
        split_item=2,
        group_type=0,
        group_list_type=1,
    )
    assert (out.shape, out.dtype) == ((x.shape[0], scale.shape[-1]), x.dtype)
    return out.cpu()


def expected(
    x: torch.Tensor, numbers: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Row by row; a matrix is rounded to the type of `x` before it is multiplied."""
    parts = scale.view(len(COUNTS), -1, 1, scale.shape[-1])
    shifts = offset.view(parts.shape)
    whole = numbers.view(len(COUNTS), parts.shape[1], -1, numbers.shape[-1]).double()
    matrices = ((whole + shifts.double()) * parts.double()).to(x.dtype).double().flatten(1, 2)
    rows = []
    for row, group in enumerate(torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS)).tolist()):
        total = (x[row].double().unsqueeze(1) * matrices[group]).sum(0)
        rows.append(total if bias is None else total + bias[group].double())
    return torch.stack(rows)


def assert_same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got[: sum(COUNTS)].double(), wanted, rtol=RELATIVE[got.dtype], atol=1e-3)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("groups", [None, 1, 2, 64])
def test_int4(groups: int | None, biased: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randint(-8, 8, (4, DEPTH, COLUMNS), generator=generator)
    shape = (4, COLUMNS) if groups is None else (4, groups, COLUMNS)
    scale = (torch.rand(shape, generator=generator) / 16).to(dtype)
    # Zero points are for whole columns alone.
    offset = torch.randint(-8, 8, shape, generator=generator).to(dtype) if groups is None else torch.zeros_like(scale)
    x = random(ROWS, DEPTH, dtype=dtype)
    bias = random(4, COLUMNS, dtype=dtype if dtype == torch.float16 else torch.float32, seed=2) if biased else None
    assert_same(product(x, packed(numbers), scale, offset, bias), expected(x, numbers, scale, offset, bias))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("transposed", [True, False])
def test_int8(transposed: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    numbers = torch.randint(-128, 128, (4, DEPTH, COLUMNS), generator=generator, dtype=torch.int8)
    scale = (torch.rand((4, COLUMNS), generator=generator) / 256).to(dtype)
    offset = torch.randint(-8, 8, scale.shape, generator=generator).to(dtype)
    x = random(ROWS, DEPTH, dtype=dtype)
    weight = numbers.transpose(1, 2).contiguous().npu().transpose(1, 2) if transposed else numbers.npu()
    assert_same(product(x, weight, scale, offset), expected(x, numbers, scale, offset))


def test_zero_points_of_groups_are_refused_when_they_are_read() -> None:
    x, scale = random(ROWS, DEPTH, dtype=torch.float16), torch.ones(4, 2, COLUMNS, dtype=torch.float16)
    with pytest.raises(RuntimeError, match=r"antiquantOffset has numbers that are not 0; allowed: zeros"):
        product(x, torch.zeros(4, DEPTH, COLUMNS // 8, dtype=torch.int32), scale, scale)
        torch.npu.synchronize()
