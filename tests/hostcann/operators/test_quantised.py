"""Rounding to int8 and products of such matrices against exact integers, value by value."""

from __future__ import annotations

import pytest
import torch

from .formulas import RELATIVE, assert_close, random

npu = torch.ops.npu
HALVES = (torch.float16, torch.bfloat16)


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    """All of int8's values, its ends among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)


def on_npu(x: torch.Tensor | None, transposed: bool = False) -> torch.Tensor | None:
    if x is None:
        return None
    return x.t().contiguous().npu().t() if transposed else x.npu()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(1, 8), (5, 64), (2, 3, 40), (0, 16)])
def test_a_scale_for_each_row(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = random(*shape, dtype=dtype)
    result, scales = npu.npu_dynamic_quant(x.npu())
    meta = npu.npu_dynamic_quant(x.to("meta"))
    assert [(t.shape, t.dtype) for t in (result, scales)] == [(t.shape, t.dtype) for t in meta]
    if not x.numel():
        return
    expected = x.double().abs().amax(-1) / 127
    torch.testing.assert_close(scales.cpu().double(), expected, rtol=RELATIVE[torch.float32], atol=0)
    steps = x.double() / expected.unsqueeze(-1)
    # Within half a step; where two steps are equally far, either may be taken.
    assert (result.cpu().double() - steps).abs().max() <= 0.5 + 1e-4
    assert (result.cpu().abs().amax(-1) == 127).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_row_of_zeros_stays_zeros(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 32, dtype=dtype)
    x[1, 5] = -3.0
    result, scales = npu.npu_dynamic_quant(x.npu())
    assert result[0].tolist() == [0] * 32 and scales[0] == 0
    assert result[1].tolist() == [0] * 5 + [-127] + [0] * 26


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("size", [1, 48])
@pytest.mark.parametrize("shifted", [False, True])
def test_given_scales(size: int, shifted: bool, dtype: torch.dtype) -> None:
    x, scale = random(7, 48, dtype=dtype), random(size, dtype=dtype, seed=1).abs() * 20
    offset = torch.arange(size).to(dtype) - 3 if shifted else None
    result = npu.npu_quantize(x.npu(), scale.npu(), on_npu(offset), torch.qint8, -1, False)
    exact = x.double() * scale.double() + (offset.double() if offset is not None else 0)
    assert (result.shape, result.dtype) == (x.shape, torch.int8)
    # float32 is what the operator computes in.
    assert (result.cpu().double() - exact.clamp(-128, 127)).abs().max() <= 0.5 + 1e-4


def test_what_does_not_fit_is_limited() -> None:
    x = torch.tensor([[1e4, -1e4, 0.5, 1.5, 2.5, -0.5]], dtype=torch.float16)
    result = npu.npu_quantize(x.npu(), torch.ones(1, dtype=torch.float16).npu(), None, torch.qint8, -1, False)
    assert result.tolist() == [[127, -128, 0, 2, 2, 0]]


@pytest.mark.parametrize("bias", [None, torch.int32, torch.float32, "out"])
@pytest.mark.parametrize(
    ("rows", "inner", "columns", "transposed"),
    [(1, 16, 8, True), (5, 64, 24, False), (7, 4096, 40, True), (3, 33, 1, True)],
)
@pytest.mark.parametrize(("dtype", "per_row"), [(torch.float16, True), (torch.bfloat16, True), (torch.bfloat16, False)])
def test_products(
    rows: int, inner: int, columns: int, transposed: bool, dtype: torch.dtype, per_row: bool,
    bias: torch.dtype | str | None,
) -> None:  # fmt: skip
    x1, x2 = integers(rows, inner), integers(inner, columns, seed=1)
    x2_scale = random(columns, dtype=torch.float32, seed=2).abs() / inner / 100
    x1_scale = random(rows, dtype=torch.float32, seed=3).abs() if per_row else None
    kind = dtype if bias == "out" else bias
    added = None
    if kind == torch.int32:
        added = torch.randint(-(2**20), 2**20, (columns,), dtype=torch.int32)
    elif kind is not None:
        added = random(columns, dtype=kind, seed=4)  # type: ignore[arg-type]
    arguments = {"pertoken_scale": on_npu(x1_scale), "bias": on_npu(added), "output_dtype": dtype}
    result = npu.npu_quant_matmul(x1.npu(), on_npu(x2, transposed), x2_scale.npu(), **arguments)
    assert (result.shape, result.dtype) == ((rows, columns), dtype)
    exact = (x1.long().unsqueeze(2) * x2.long().unsqueeze(0)).sum(1)
    if kind == torch.int32:
        assert added is not None
        exact = exact + added
    wide = exact.double() * x2_scale.double() * (x1_scale.double().unsqueeze(1) if x1_scale is not None else 1)
    if added is not None and kind != torch.int32:
        wide = wide + added.double()
    assert_close(result, wide)


def test_the_ends_of_int8_over_a_long_row_are_exact() -> None:
    """2**14 times 2**14 is more than float32 holds exactly."""
    x1 = torch.full((1, 16385), -128, dtype=torch.int8)
    x2 = torch.full((16385, 1), -128, dtype=torch.int8)
    x2[0] = -127
    exact = (x1.long() @ x2.long()).double()
    # What is left after the bias is small, and bfloat16 holds it.
    bias = -exact[:, 0].int() + 5
    one = torch.ones(1)
    result = npu.npu_quant_matmul(x1.npu(), x2.npu(), one.npu(), bias=bias.npu(), output_dtype=torch.bfloat16)
    assert result.tolist() == [[5.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("depth", "group"), [(64, 0), (96, 32), (80, 32), (129, 128)])
def test_products_with_weights_alone_quantised(
    depth: int, group: int, shifted: bool, bits: int, dtype: torch.dtype
) -> None:
    """Against float64; a weight is rounded once, to the type of the activations."""
    generator = torch.Generator().manual_seed(bits + depth)
    limit = 2 ** (bits - 1)
    weight = torch.randint(-limit, limit, (depth, 24), generator=generator, dtype=torch.int32)
    rows = 1 if group == 0 else -(-depth // group)
    scale = (torch.rand(rows, 24, generator=generator) / limit).to(dtype)
    offset = torch.randint(-3, 4, (rows, 24), generator=generator).to(dtype) if shifted else None
    x = torch.randn(5, depth, generator=generator).to(dtype)
    bias = torch.randn(24, generator=generator).to(torch.float16 if dtype == torch.float16 else torch.float32)
    stored = npu.npu_convert_weight_to_int4pack(weight.npu()) if bits == 4 else weight.to(torch.int8).npu()
    result = npu.npu_weight_quant_batchmatmul(
        x.npu(),
        stored,
        scale.npu(),
        antiquant_offset=None if offset is None else offset.npu(),
        bias=bias.npu(),
        antiquant_group_size=group,
    )
    each = torch.zeros(depth, dtype=torch.long) if group == 0 else torch.arange(depth) // group
    shift = 0 if offset is None else offset.double()[each]
    exact = ((weight.double() + shift) * scale.double()[each]).to(dtype).double()
    expected = x.double() @ exact + bias.double()
    assert (result.shape, result.dtype) == ((5, 24), dtype)
    torch.testing.assert_close(result.cpu().double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_eight_bits_may_lie_transposed() -> None:
    weight, scale = torch.randint(-128, 128, (24, 64), dtype=torch.int8), torch.rand(24, dtype=torch.float16) / 128
    x = torch.randn(3, 64, dtype=torch.float16)
    result = npu.npu_weight_quant_batchmatmul(x.npu(), weight.npu().t(), scale.npu())
    expected = x.double() @ (weight.t().double() * scale.double()).half().double()
    torch.testing.assert_close(result.cpu().double(), expected, rtol=1e-3, atol=1e-4)
