from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .formulas import FLOATS, assert_close, random, rms_norm

SHAPES = [(1, 16), (5, 64), (3, 2, 100), (2, 1), (7, 33)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, gamma = random(*shape, dtype=dtype), random(shape[-1], dtype=dtype, seed=1)
    y, rstd = torch.ops.npu.npu_rms_norm(x.npu(), gamma.npu(), 1e-5)
    assert_close(y, rms_norm(x, gamma, 1e-5))
    assert_close(rstd, torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-5))
    meta = torch.ops.npu.npu_rms_norm(x.to("meta"), gamma.to("meta"), 1e-5)
    assert [(t.shape, t.dtype) for t in (y, rstd)] == [(t.shape, t.dtype) for t in meta]


def test_rms_norm_mixes_a_float32_weight_with_bfloat16() -> None:
    x, gamma = random(4, 48, dtype=torch.bfloat16), random(48, dtype=torch.float32, seed=1)
    assert_close(torch.ops.npu.npu_rms_norm(x.npu(), gamma.npu(), 1e-6)[0], rms_norm(x, gamma, 1e-6))


def test_rms_norm_over_two_dimensions() -> None:
    x, gamma = random(3, 4, 8, dtype=torch.float32), random(4, 8, dtype=torch.float32, seed=1)
    assert_close(torch.ops.npu.npu_rms_norm(x.npu(), gamma.npu(), 1e-6)[0], rms_norm(x, gamma, 1e-6))


def test_rms_norm_of_strided_rows_and_of_nothing() -> None:
    wide = random(6, 96, dtype=torch.bfloat16)
    gamma = random(32, dtype=torch.bfloat16, seed=1)
    assert_close(
        torch.ops.npu.npu_rms_norm(wide.npu()[:, 32:64], gamma.npu(), 1e-6)[0], rms_norm(wide[:, 32:64], gamma, 1e-6)
    )
    assert torch.ops.npu.npu_rms_norm(wide.npu()[:0, :32], gamma.npu(), 1e-6)[0].shape == (0, 32)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gemma_rms_norm_adds_one_to_the_weight(dtype: torch.dtype) -> None:
    x, gamma = random(5, 64, dtype=dtype), random(64, dtype=dtype, seed=1)
    y = torch.ops.npu.npu_gemma_rms_norm(x.npu(), gamma.npu(), 1e-6)[0]
    assert_close(y, rms_norm(x, gamma.double() + 1.0, 1e-6))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_add_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    a, b = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    gamma = random(shape[-1], dtype=dtype, seed=2)
    y, rstd, total = torch.ops.npu.npu_add_rms_norm(a.npu(), b.npu(), gamma.npu(), 1e-5)
    expected = (a.double() + b.double()).to(dtype)
    assert torch.equal(total.cpu(), expected)
    assert_close(y, rms_norm(expected, gamma, 1e-5))
    meta = torch.ops.npu.npu_add_rms_norm(a.to("meta"), b.to("meta"), gamma.to("meta"), 1e-5)
    assert [(t.shape, t.dtype) for t in (y, rstd, total)] == [(t.shape, t.dtype) for t in meta]


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 9), width=st.integers(1, 70), seed=st.integers(0, 99), dtype=st.sampled_from(FLOATS))
def test_rms_norm_of_any_size(rows: int, width: int, seed: int, dtype: torch.dtype) -> None:
    x, gamma = random(rows, width, dtype=dtype, seed=seed), random(width, dtype=dtype, seed=seed + 1)
    assert_close(torch.ops.npu.npu_rms_norm(x.npu(), gamma.npu(), 1e-5)[0], rms_norm(x, gamma, 1e-5))
