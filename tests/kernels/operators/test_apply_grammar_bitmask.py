"""apply_grammar_bitmask on the simulator and on hostcann, against the reference, xgrammar and a loop over bits."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import apply_grammar_bitmask as package

from .conftest import Simulate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
V = 151_936


def case(rows: int, vocab: int, words: int, dtype: torch.dtype, seed: int = 0, padding: int = 0) -> tuple[Any, ...]:
    """Logits whose rows are `padding` elements apart, and a random mask with whole words of ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab + padding, generator=generator).to(dtype)[:, :vocab]
    bitmask = torch.randint(-(2**31), 2**31, (rows, words), dtype=torch.int32, generator=generator)
    kind = torch.randint(0, 3, (rows, words), generator=generator)
    bitmask[kind == 1] = -1
    bitmask[kind == 2] = 0
    return logits, bitmask


def by_bits(logits: torch.Tensor, bitmask: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Every bit looked at alone, in Python."""
    result = logits.clone()
    for row in rows:
        for token in range(min(logits.shape[1], 32 * bitmask.shape[1])):
            if not int(bitmask[row, token // 32]) >> (token % 32) & 1:
                result[row, token] = -torch.inf
    return result


shapes = st.tuples(
    st.integers(1, 5),
    st.one_of(st.integers(1, 70), st.sampled_from([8191, 8192, 8193, 16_385, 20_001])),
    st.sampled_from([0, 1, 5]),
)


@settings(max_examples=120, deadline=None)
@given(shapes, st.sampled_from(DTYPES), st.data())
def test_the_kernel_sets_what_the_reference_sets(
    simulate: Simulate, shape: tuple[int, int, int], dtype: torch.dtype, data: st.DataObject
) -> None:
    rows, vocab, padding = shape
    # One word less: padding of the vocabulary. One more: padding of the mask.
    words = max(1, -(-vocab // 32) + data.draw(st.sampled_from([-1, 0, 1]), label="words"))
    logits, bitmask = case(rows, vocab, words, dtype, data.draw(st.integers(0, 99), label="seed"), padding)
    chosen = data.draw(st.one_of(st.none(), st.lists(st.integers(0, rows - 1), unique=True)), label="indices")
    indices = None if chosen is None else torch.tensor(chosen, dtype=torch.int32)
    expected = logits.clone()
    package.reference(expected, bitmask, indices)
    simulate(package, logits, bitmask, indices)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_are_counted_from_the_lowest(simulate: Simulate, dtype: torch.dtype) -> None:
    logits, bitmask = case(3, 77, 3, dtype)
    expected = by_bits(logits, bitmask, [2, 0])
    indices = torch.tensor([2, 0], dtype=torch.int32)
    on_reference = logits.clone()
    package.reference(on_reference, bitmask, indices)
    simulate(package, logits, bitmask, indices)
    assert torch.equal(logits, expected) and torch.equal(on_reference, expected)


def test_it_does_what_xgrammar_does(simulate: Simulate) -> None:
    xgrammar = pytest.importorskip("xgrammar")
    logits, bitmask = case(4, 5000, 157, torch.float32)
    expected = logits.clone()
    xgrammar.apply_token_bitmask_inplace(expected, bitmask, indices=[1, 3])
    simulate(package, logits, bitmask, torch.tensor([1, 3], dtype=torch.int32))
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_stay_and_other_rows_are_not_touched(simulate: Simulate, dtype: torch.dtype) -> None:
    logits = torch.tensor([[torch.inf, -torch.inf, 3.0], [1.0, 2.0, 3.0]], dtype=dtype)
    before = logits.clone()
    simulate(package, logits, torch.full((2, 1), -1, dtype=torch.int32), torch.tensor([0], dtype=torch.int32))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator_on_the_device(npu: ModuleType, dtype: torch.dtype) -> None:
    logits, bitmask = case(3, V, -(-V // 32), dtype)
    indices = torch.tensor([2, 1], dtype=torch.int32)
    expected = logits.clone()
    torch.ops.ascend_patch.apply_grammar_bitmask(expected, bitmask, indices)
    on_device = logits.npu()
    torch.ops.ascend_patch.apply_grammar_bitmask(on_device, bitmask.npu(), indices.npu())
    assert torch.equal(on_device.cpu(), expected)
    assert torch.equal(expected[0], logits[0]) and not torch.equal(expected[1], logits[1])


def test_one_launch_on_the_device(npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    logits, bitmask = (tensor.npu() for tensor in case(2, 100, 4, torch.float32))
    package.apply_grammar_bitmask(logits, bitmask, None)
    with trace.recording() as counts:
        package.apply_grammar_bitmask(logits, bitmask, None)
        seen = counts()
    assert (seen["launches"], seen["syncs"]) == (1, 0)


def test_without_rows_or_tokens_nothing_happens(npu: ModuleType) -> None:
    for rows, vocab in ((0, 64), (2, 0)):
        logits = torch.zeros(rows, vocab, device="npu")
        package.apply_grammar_bitmask(logits, torch.zeros(rows, 2, dtype=torch.int32, device="npu"), None)
    logits = torch.zeros(1, 64, device="npu")
    nothing = torch.zeros(0, dtype=torch.int32, device="npu")
    package.apply_grammar_bitmask(logits, torch.zeros(1, 2, dtype=torch.int32, device="npu"), nothing)
    assert not logits.cpu().any()


def test_a_compiler_sees_one_operator_that_mutates() -> None:
    logits, bitmask = case(2, 40, 2, torch.float32)
    torch.library.opcheck(package.apply_grammar_bitmask, (logits, bitmask, None))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(2, 64, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.int32), None), TypeError, "float64"),
        ((torch.zeros(2, 64), torch.zeros(2, 2, dtype=torch.int64), None), TypeError, "bitmask is torch.int64"),
        ((torch.zeros(64), torch.zeros(2, 2, dtype=torch.int32), None), ValueError, "logits must be a matrix"),
        ((torch.zeros(64, 2).T, torch.zeros(2, 2, dtype=torch.int32), None), ValueError, "contiguous rows"),
        ((torch.zeros(3, 64), torch.zeros(2, 2, dtype=torch.int32), None), ValueError, "has 2 rows, logits 3"),
        (
            (torch.zeros(2, 64), torch.zeros(2, 2, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)),
            TypeError,
            "indices are torch.int64",
        ),
        (
            (torch.zeros(2, 64), torch.zeros(2, 2, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)),
            ValueError,
            "contiguous vector",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(arguments: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        package.apply_grammar_bitmask(*arguments)
