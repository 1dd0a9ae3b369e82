"""sample_recovered_tokens on the simulator and on hostcann, against the reference, float64 and the distribution."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import sample_recovered_tokens as package

from .conftest import Simulate

V = 151_936


def case(counts: list[int], vocab: int, drafted: bool, seed: int = 0, padding: int = 0) -> tuple[Any, ...]:
    """Random arguments for requests with so many draft tokens; some draft tokens are -1."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(counts)

    def probs() -> torch.Tensor:
        return (torch.randn(tokens, vocab + padding, generator=generator) * 3).softmax(1)[:, :vocab]

    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    drafts = torch.randint(-1, vocab, (tokens,), generator=generator, dtype=torch.int32)
    q = torch.empty(len(counts), vocab + padding).exponential_(generator=generator)[:, :vocab]
    return ends, drafts, probs() if drafted else None, probs(), q


def by_definition(
    ends: torch.Tensor, drafts: torch.Tensor, draft_probs: torch.Tensor | None, target_probs: torch.Tensor, q: Any
) -> list[int]:
    """Draft token by draft token, in float64 with a division."""
    found, begin = [], 0
    for request, end in enumerate(ends.tolist()):
        for token in range(begin, end):
            probs = target_probs[token].double()
            if draft_probs is not None:
                probs = (probs - draft_probs[token].double()).clamp_min(0)
            elif drafts[token] >= 0:
                probs[int(drafts[token])] = 0
            found.append(int((probs / q[request].double()).argmax()))
        begin = end
    return found


shapes = st.tuples(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.one_of(st.integers(1, 70), st.sampled_from([4095, 4096, 4097, 9001])),
    st.sampled_from([0, 3]),
)


@settings(max_examples=120, deadline=None)
@given(shapes, st.booleans(), st.integers(0, 99))
def test_the_kernel_samples_what_the_reference_samples(
    simulate: Simulate, shape: tuple[list[int], int, int], drafted: bool, seed: int
) -> None:
    arguments = case(shape[0], shape[1], drafted, seed, shape[2])
    assert torch.equal(simulate(package, *arguments), package.reference(*arguments))


@pytest.mark.parametrize("drafted", [True, False])
@pytest.mark.parametrize("vocab", [2, 77, 9001])
def test_both_follow_the_definition(simulate: Simulate, vocab: int, drafted: bool) -> None:
    arguments = case([3, 0, 1, 7], vocab, drafted, seed=4)
    expected = by_definition(*arguments)
    assert simulate(package, *arguments).tolist() == expected
    assert package.reference(*arguments).tolist() == expected


def test_more_requests_than_fit_into_the_buffer_at_once(simulate: Simulate) -> None:
    arguments = case([1, 0, 0] * 500, 8, True)
    assert simulate(package, *arguments).tolist() == by_definition(*arguments)


def test_the_first_of_equal_scores_wins_also_across_tiles(simulate: Simulate) -> None:
    target, q = torch.zeros(1, 9001), torch.ones(1, 9001)
    target[0, [5000, 5001, 9000]] = 0.25
    ends, drafts = torch.ones(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    for run in (package.reference, lambda *a: simulate(package, *a)):
        assert run(ends, drafts, None, target, q).tolist() == [5000]
        assert run(ends, drafts, target, target, q).tolist() == [0]  # nothing is left to sample


def test_without_probabilities_the_draft_token_is_never_recovered(simulate: Simulate) -> None:
    ends, drafts, _, target, q = case([4, 4], 5000, False)
    drafts[:] = target.argmax(1)
    q[:] = 1
    found = simulate(package, ends, drafts, None, target, q)
    assert found.tolist() == target.topk(2).indices[:, 1].tolist()


def test_tokens_are_sampled_by_what_the_target_has_more_of(npu: ModuleType) -> None:
    requests = 20_000
    target, draft = torch.tensor([0.5, 0.2, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.1, 0.5])
    q = torch.empty(requests, 4).exponential_(generator=torch.Generator().manual_seed(1))
    ends = torch.arange(1, requests + 1, dtype=torch.int32)
    drafts = torch.zeros(requests, dtype=torch.int32)
    arguments = (ends, drafts, draft.repeat(requests, 1), target.repeat(requests, 1), q)
    found = package.sample_recovered_tokens(*(tensor.npu() for tensor in arguments)).cpu()
    shares = found.bincount(minlength=4) / requests
    # max(target - draft, 0) is 0.4, 0, 0.1, 0; five standard deviations of a share are 0.0141.
    torch.testing.assert_close(shares, torch.tensor([0.8, 0.0, 0.2, 0.0]), rtol=0, atol=0.0141)


@pytest.mark.parametrize("drafted", [True, False])
def test_the_operator_on_the_device(npu: ModuleType, drafted: bool) -> None:
    arguments = case([2, 3], V, drafted)
    on_device = [tensor if tensor is None else tensor.npu() for tensor in arguments]
    found = torch.ops.ascend_patch.sample_recovered_tokens(*on_device)
    assert torch.equal(found.cpu(), torch.ops.ascend_patch.sample_recovered_tokens(*arguments))


def test_one_launch_on_the_device(npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    arguments = [tensor.npu() for tensor in case([2, 3], 100, True)]
    package.sample_recovered_tokens(*arguments)
    with trace.recording() as counts:
        package.sample_recovered_tokens(*arguments)
        seen = counts()
    assert (seen["launches"], seen["syncs"]) == (1, 0)


@pytest.mark.parametrize("counts", [[], [0, 0]])
@pytest.mark.parametrize("device", ["cpu", "npu"])
def test_without_draft_tokens_the_result_is_empty(npu: ModuleType, device: str, counts: list[int]) -> None:
    arguments = [tensor.to(device) for tensor in case(counts, 9, True)]
    assert package.sample_recovered_tokens(*arguments).shape == (0,)


def test_a_compiler_sees_one_operator() -> None:
    torch.library.opcheck(package.sample_recovered_tokens, case([2, 1], 40, True))


@pytest.mark.parametrize(
    ("place", "tensor", "error", "words"),
    [
        (0, torch.ones(2, dtype=torch.int64), TypeError, "cu_num_draft_tokens is torch.int64"),
        (1, torch.ones(6, dtype=torch.int32)[::2], ValueError, "draft_token_ids must be a contiguous vector"),
        (2, torch.zeros(3, 41), ValueError, r"draft_probs must have 3 contiguous rows of 40, not \(3, 41\)"),
        (3, torch.zeros(3, 40, dtype=torch.float16), TypeError, "target_probs is torch.float16"),
        (4, torch.zeros(2, 40, dtype=torch.float64), TypeError, "q is torch.float64"),
        (4, torch.zeros(40, 2).T, ValueError, "q must have 2 contiguous rows"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, tensor: torch.Tensor, error: type[Exception], words: str) -> None:
    arguments = list(case([2, 1], 40, True))
    arguments[place] = tensor
    with pytest.raises(error, match=words):
        package.sample_recovered_tokens(*arguments)


def test_an_empty_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary is empty"):
        package.sample_recovered_tokens(*case([2, 1], 1, False)[:3], torch.zeros(3, 0), torch.zeros(2, 0))
