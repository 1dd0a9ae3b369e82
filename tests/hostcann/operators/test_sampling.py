from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .formulas import FLOATS, random


def filtered(logits: torch.Tensor, p: torch.Tensor | None, k: torch.Tensor | None) -> torch.Tensor:
    """The document's steps, row by row."""
    result = logits.clone()
    for row in range(logits.shape[0]):
        values, order = logits[row].double().sort(stable=True)
        n = values.numel()
        if k is not None and 0 < int(k[row]) < n:
            values[values < values[n - int(k[row])]] = -torch.inf
        if p is not None:
            excluded = values.softmax(-1).cumsum(-1) <= 1 - p[row].double()
            excluded[-1] = False
            values[excluded] = -torch.inf
        result[row, order] = values.to(logits.dtype)
    return result


@pytest.mark.parametrize("dtype", FLOATS)
def test_top_k_and_top_p(dtype: torch.dtype) -> None:
    logits = random(6, 50, dtype=dtype) * 3
    k = torch.tensor([1, 5, 50, 0, 200, 10], dtype=torch.int32)
    p = torch.tensor([0.9, 0.31, 1.0, 0.0, 0.77, 0.5], dtype=dtype)
    for some_p, some_k in ((p, k), (p, None), (None, k)):
        out = torch.ops.npu.npu_top_k_top_p(logits.npu(), *(None if t is None else t.npu() for t in (some_p, some_k)))
        assert torch.equal(out.cpu(), filtered(logits, some_p, some_k))
        assert (out.shape, out.dtype) == (logits.shape, dtype)


def test_ties_with_the_kth_value_stay() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0, 2.0]])
    out = torch.ops.npu.npu_top_k_top_p(logits.npu(), None, torch.tensor([2], dtype=torch.int32).npu())
    assert out.cpu().isfinite().tolist() == [[False, True, True, True, False]]


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 4),
    n=st.integers(1, 40),
    k=st.integers(-1, 45),
    p=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_any_size(rows: int, n: int, k: int, p: float, seed: int) -> None:
    logits = random(rows, n, dtype=torch.float32, seed=seed)
    ks, ps = torch.full((rows,), k, dtype=torch.int32), torch.full((rows,), p)
    out = torch.ops.npu.npu_top_k_top_p(logits.npu(), ps.npu(), ks.npu())
    assert torch.equal(out.cpu(), filtered(logits, ps, ks))
