"""min_p_temperature on the simulator and on hostcann, against the reference, vLLM and probabilities in float64."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import min_p_temperature as package

from .conftest import Simulate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
V = 151_936
TOLERANCES = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def case(rows: int, vocab: int, dtype: torch.dtype, seed: int = 0, padding: int = 0) -> tuple[Any, ...]:
    """Random arguments; among the temperatures are 0 (greedy) and 1, among the limits 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab + padding, generator=generator) * 3).to(dtype)[:, :vocab]
    temperature = torch.rand(rows, generator=generator) * 2 + 0.1
    min_p = torch.rand(rows, generator=generator)
    temperature[1::4], temperature[2::4] = 0, 1
    min_p[2::3] = 0
    return logits, temperature, min_p


def probabilities(logits: torch.Tensor, temperature: torch.Tensor, min_p: torch.Tensor) -> tuple[Any, ...]:
    """The definition in float64: scaled logits, what min-p removes, and what is too close to its limit to tell."""
    temperature = torch.where(temperature < 1e-5, 1.0, temperature)
    scaled = logits.double() / temperature.double().unsqueeze(1)
    ratio = (scaled - scaled.amax(1, keepdim=True)).exp()
    limit = min_p.double().unsqueeze(1)
    return scaled.to(logits.dtype), ratio < limit, (ratio / limit - 1).abs() < 1e-5


def same(found: torch.Tensor, expected: torch.Tensor, unclear: torch.Tensor | None = None) -> None:
    tolerance = TOLERANCES[found.dtype]
    if unclear is not None:
        found, expected = found.masked_fill(unclear, 0), expected.masked_fill(unclear, 0)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


shapes = st.tuples(
    st.integers(1, 7),
    st.one_of(st.integers(1, 70), st.sampled_from([8191, 8192, 8193, 16_389, 24_576])),
    st.sampled_from([0, 3]),
)


@settings(max_examples=120, deadline=None)
@given(shapes, st.sampled_from(DTYPES), st.integers(0, 99), st.booleans(), st.booleans())
def test_the_kernel_computes_what_the_reference_computes(
    simulate: Simulate, shape: tuple[int, int, int], dtype: torch.dtype, seed: int, scale: bool, limit: bool
) -> None:
    logits, temperature, min_p = case(shape[0], shape[1], dtype, seed, shape[2])
    arguments = (temperature if scale else None, min_p.unsqueeze(1) if limit else None)
    unclear = probabilities(logits, temperature if scale else torch.ones_like(min_p), min_p)[2]
    expected = logits.clone()
    package.reference(expected, *arguments)
    simulate(package, logits, *arguments)
    same(logits, expected, unclear)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 7, 9001])
def test_both_follow_the_definition(simulate: Simulate, vocab: int, dtype: torch.dtype) -> None:
    logits, temperature, min_p = case(6, vocab, dtype, seed=3)
    scaled, removed, unclear = probabilities(logits, temperature, min_p)
    expected = scaled.masked_fill(removed, -torch.inf)
    on_reference = logits.clone()
    package.reference(on_reference, temperature, min_p)
    simulate(package, logits, temperature, min_p)
    same(logits, expected, unclear)
    same(on_reference, expected, unclear)
    # The likeliest token always stays, so that the test above cannot pass on nothing but minus infinity.
    assert bool(logits.isfinite().any(1).all())


def test_it_does_what_vllm_does(npu: ModuleType, simulate: Simulate) -> None:
    from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
    from vllm.v1.sample.sampler import Sampler

    logits, temperature, min_p = case(6, 9001, torch.float32)
    unclear = probabilities(logits, temperature, min_p)[2]
    expected = Sampler.apply_temperature(logits.clone(), temperature, all_random=False)
    processor = MinPLogitsProcessor.__new__(MinPLogitsProcessor)
    processor.min_p_count, processor.min_p = 4, min_p.unsqueeze(1)
    expected = processor.apply(expected)
    simulate(package, logits, temperature, min_p.unsqueeze(1))
    same(logits, expected, unclear)


@pytest.mark.parametrize("limit", [0.0, 0.5, 1.0])
def test_forbidden_tokens_stay_forbidden(simulate: Simulate, limit: float) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 3.0, -torch.inf, 2.5]])
    simulate(package, logits, torch.tensor([0.5]), torch.tensor([limit]))
    kept = {0.0: [2.0, 6.0, 5.0], 0.5: [-torch.inf, 6.0, -torch.inf], 1.0: [-torch.inf, 6.0, -torch.inf]}[limit]
    assert logits.tolist() == [[-torch.inf, kept[0], kept[1], -torch.inf, kept[2]]]


def test_a_row_without_any_allowed_token_stays_as_it_is(simulate: Simulate) -> None:
    logits = torch.full((2, 70), -torch.inf)
    simulate(package, logits, torch.tensor([0.5, 2.0]), torch.tensor([0.5, 1.0]))
    assert bool((logits == -torch.inf).all())


def test_ties_for_the_first_place_all_stay(simulate: Simulate) -> None:
    logits = torch.tensor([[1.0, 7.0, 7.0, 6.999]])
    simulate(package, logits, None, torch.tensor([1.0]))
    assert logits.tolist() == [[-torch.inf, 7.0, 7.0, -torch.inf]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator_on_the_device(npu: ModuleType, dtype: torch.dtype) -> None:
    logits, temperature, min_p = case(3, V, dtype)
    unclear = probabilities(logits, temperature, min_p)[2]
    on_device = logits.npu()
    torch.ops.ascend_patch.min_p_temperature(logits, temperature, min_p)
    torch.ops.ascend_patch.min_p_temperature(on_device, temperature.npu(), min_p.npu())
    same(on_device.cpu(), logits, unclear)


def test_one_launch_on_the_device(npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    arguments = [tensor.npu() for tensor in case(3, 100, torch.float32)]
    package.min_p_temperature(*arguments)
    with trace.recording() as counts:
        package.min_p_temperature(*arguments)
        seen = counts()
    assert (seen["launches"], seen["syncs"]) == (1, 0)


@pytest.mark.parametrize("shape", [(0, 64), (2, 0)])
def test_without_rows_or_tokens_nothing_happens(npu: ModuleType, shape: tuple[int, int]) -> None:
    for device in ("cpu", "npu"):
        vector = torch.ones(shape[0], device=device)
        package.min_p_temperature(torch.zeros(shape, device=device), vector, vector)


def test_a_compiler_sees_one_operator_that_mutates() -> None:
    torch.library.opcheck(package.min_p_temperature, case(3, 40, torch.float32))


@pytest.mark.parametrize(
    ("place", "tensor", "error", "words"),
    [
        (0, torch.zeros(2, 40, dtype=torch.float64), TypeError, "logits are torch.float64"),
        (0, torch.zeros(40), ValueError, "logits must be a matrix"),
        (1, torch.zeros(2, dtype=torch.float16), TypeError, "temperature is torch.float16"),
        (1, torch.zeros(3), ValueError, r"temperature must be a contiguous vector of 2, not \(3,\)"),
        (2, torch.zeros(4)[::2], ValueError, "min_p must be a contiguous vector"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, tensor: torch.Tensor, error: type[Exception], words: str) -> None:
    arguments = list(case(2, 40, torch.float32))
    arguments[place] = tensor
    with pytest.raises(error, match=words):
        package.min_p_temperature(*arguments)
