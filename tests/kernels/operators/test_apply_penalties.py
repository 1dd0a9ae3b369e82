"""apply_penalties on the simulator and on hostcann, against the reference, vLLM and a loop over tokens."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import apply_penalties as package

from .conftest import Simulate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
V = 151_936
# One rounding to the dtype; the arithmetic before it is the same float32 on both sides.
TOLERANCES = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def case(
    rows: int, vocab: int, prompt: int, output: int, dtype: torch.dtype, seed: int = 0, padding: int = 0
) -> tuple[Any, ...]:
    """Random arguments: ids with repeats and paddings, one row in three without penalties."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab + padding, generator=generator) * 4).to(dtype)[:, :vocab]
    few = max(1, vocab // 3)
    prompt_ids = torch.randint(0, vocab + 1, (rows, prompt + padding), generator=generator)[:, :prompt]
    output_ids = torch.randint(-1, few, (rows, output), generator=generator) * 3
    output_ids[output_ids < 0] = -1
    output_ids[output_ids >= vocab] = vocab
    presence = torch.randn(rows, generator=generator)
    frequency = torch.randn(rows, generator=generator)
    repetition = torch.rand(rows, generator=generator) * 1.5 + 0.3
    presence[2::3], frequency[2::3], repetition[2::3] = 0, 0, 1
    return logits, prompt_ids, output_ids, presence, frequency, repetition


def by_token(
    logits: torch.Tensor,
    prompt_ids: torch.Tensor,
    output_ids: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
    repetition: torch.Tensor,
) -> torch.Tensor:
    """The definition, token by token, in Python's float64."""
    result = logits.double()
    for row in range(logits.shape[0]):
        prompt, output = prompt_ids[row].tolist(), output_ids[row].tolist()
        for token in {*prompt, *output} & {*range(logits.shape[1])}:
            value = float(logits[row, token])
            value = value / float(repetition[row]) if value > 0 else value * float(repetition[row])
            value -= float(frequency[row]) * output.count(token) + float(presence[row]) * (token in output)
            result[row, token] = value
    return result.to(logits.dtype)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCES[found.dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


shapes = st.tuples(
    st.integers(1, 4),
    st.one_of(st.integers(1, 70), st.sampled_from([8191, 8192, 8193, 16_389])),
    st.one_of(st.integers(0, 70), st.sampled_from([2047, 2048, 2049, 4100])),
    st.one_of(st.integers(0, 70), st.sampled_from([2048, 2100])),
    st.sampled_from([0, 3]),
)


@settings(max_examples=120, deadline=None)
@given(shapes, st.sampled_from(DTYPES), st.integers(0, 99))
def test_the_kernel_computes_what_the_reference_computes(
    simulate: Simulate, shape: tuple[int, int, int, int, int], dtype: torch.dtype, seed: int
) -> None:
    rows, vocab, prompt, output, padding = shape
    logits, *others = case(rows, vocab, prompt, output, dtype, seed, padding)
    expected = logits.clone()
    package.reference(expected, *others)
    simulate(package, logits, *others)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 50, 40, 30), (3, 9000, 300, 200), (1, 1, 1, 1), (2, 40, 0, 5), (2, 40, 5, 0)])
def test_both_follow_the_definition(simulate: Simulate, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits, *others = case(*shape, dtype, seed=5)
    expected = by_token(logits, *others)
    on_reference = logits.clone()
    package.reference(on_reference, *others)
    simulate(package, logits, *others)
    close(logits, expected)
    close(on_reference, expected)


def test_it_does_what_vllm_does(npu: ModuleType, simulate: Simulate) -> None:
    from vllm.model_executor.layers.utils import apply_penalties

    logits, prompt_ids, output_ids, *penalties = case(3, 10_000, 700, 400, torch.float32)
    output_ids[output_ids < 0] = 10_000  # apply_all_penalties does this before
    expected = apply_penalties(logits.clone(), prompt_ids, output_ids, *penalties)
    simulate(package, logits, prompt_ids, output_ids, *penalties)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_forbidden_tokens_stay_forbidden(simulate: Simulate) -> None:
    logits, *others = case(2, 60, 40, 40, torch.float32)
    logits[:, ::2] = -torch.inf
    simulate(package, logits, *others)
    assert bool((logits[:, ::2] == -torch.inf).all()) and bool(logits[:, 1::2].isfinite().all())


def test_a_row_without_penalties_and_a_tile_without_tokens_are_not_written(simulate: Simulate) -> None:
    logits, prompt_ids, output_ids, *penalties = case(3, 20_000, 10, 10, torch.float32)
    prompt_ids %= 100
    output_ids %= 100
    before = logits.clone()
    simulate(package, logits, prompt_ids, output_ids, *penalties)
    assert torch.equal(logits[2], before[2])
    assert torch.equal(logits[:, 100:], before[:, 100:])
    assert not torch.equal(logits[0], before[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator_on_the_device(npu: ModuleType, dtype: torch.dtype) -> None:
    arguments = case(2, V, 500, 300, dtype)
    on_device = [tensor.npu() for tensor in arguments]
    torch.ops.ascend_patch.apply_penalties(*arguments)
    torch.ops.ascend_patch.apply_penalties(*on_device)
    close(on_device[0].cpu(), arguments[0])


def test_one_launch_on_the_device(npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    arguments = [tensor.npu() for tensor in case(2, 100, 10, 10, torch.float32)]
    package.apply_penalties(*arguments)
    with trace.recording() as counts:
        package.apply_penalties(*arguments)
        seen = counts()
    assert (seen["launches"], seen["syncs"]) == (1, 0)


@pytest.mark.parametrize("shape", [(0, 64, 3, 3), (2, 0, 3, 3), (2, 64, 0, 0)])
def test_without_rows_tokens_or_ids_nothing_happens(npu: ModuleType, shape: tuple[int, ...]) -> None:
    rows, vocab, prompt, output = shape
    logits = torch.ones(rows, vocab, device="npu")
    ids = [torch.zeros(rows, n, dtype=torch.int64, device="npu") for n in (prompt, output)]
    package.apply_penalties(logits, *ids, *(torch.full((rows,), 2.0, device="npu") for _ in range(3)))
    assert torch.equal(logits.cpu(), torch.ones(rows, vocab))


def test_a_compiler_sees_one_operator_that_mutates() -> None:
    torch.library.opcheck(package.apply_penalties, case(2, 40, 5, 5, torch.float32))


@pytest.mark.parametrize(
    ("place", "tensor", "error", "words"),
    [
        (0, torch.zeros(2, 40, dtype=torch.int32), TypeError, "logits are torch.int32"),
        (0, torch.zeros(40, 2).T, ValueError, "contiguous rows"),
        (1, torch.zeros(2, 5, dtype=torch.int32), TypeError, "prompt_token_ids is torch.int32"),
        (1, torch.zeros(3, 5, dtype=torch.int64), ValueError, r"2 contiguous rows like logits, not \(3, 5\)"),
        (2, torch.zeros(5, 2, dtype=torch.int64).T, ValueError, "output_token_ids must have 2 contiguous rows"),
        (3, torch.zeros(2, dtype=torch.float16), TypeError, "presence_penalties is torch.float16"),
        (4, torch.zeros(2, 1), ValueError, "frequency_penalties must be a contiguous vector of 2"),
        (5, torch.zeros(4)[::2], ValueError, "repetition_penalties must be a contiguous vector"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, tensor: torch.Tensor, error: type[Exception], words: str) -> None:
    arguments = list(case(2, 40, 5, 5, torch.float32))
    arguments[place] = tensor
    with pytest.raises(error, match=words):
        package.apply_penalties(*arguments)
