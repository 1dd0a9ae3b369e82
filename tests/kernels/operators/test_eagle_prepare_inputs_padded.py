"""eagle_prepare_inputs_padded on the simulator and on hostcann, against the reference and a loop over requests."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import eagle_prepare_inputs_padded as package
from ascend_patch.kernels import loading

from .conftest import Simulate

UNTOUCHED = -77


def case(drafts: list[int], accepted: list[int], extra: list[int]) -> tuple[list[torch.Tensor], list[int], list[int]]:
    """Inputs and untouched results, and what must be in them, request by request."""
    sums, starts, valid, rejected, indices = [], [0], [], [], []
    total = 0
    for count, share, more in zip(drafts, accepted, extra, strict=True):
        total += count
        sums.append(total)
        # Without drafts the request is a prompt of 1 + `more` tokens; a discarded one has no valid token.
        length = count + 1 if count else more + 1
        good = min(share, count + 1)
        starts.append(starts[-1] + length)
        valid.append(good)
        rejected.append(length - good if count else 0)
        # The last token that stays, counted from the request's first.
        indices.append(starts[-2] + (good if count else length) - 1)
    inputs = [torch.tensor(values, dtype=torch.int32) for values in (sums, valid, starts)]
    results = [torch.full((len(drafts),), UNTOUCHED, dtype=torch.int32) for _ in range(2)]
    return [*inputs, *results], indices, rejected


requests = st.one_of(st.integers(0, 40), st.sampled_from([1023, 1024, 1025, 2500]))


def draw(count: int, seed: int) -> tuple[list[torch.Tensor], list[int], list[int]]:
    generator = torch.Generator().manual_seed(seed)
    drafts, accepted, extra = (torch.randint(0, high, (count,), generator=generator).tolist() for high in (6, 7, 100))
    return case(drafts, accepted, extra)


@settings(max_examples=60, deadline=None)
@given(requests, st.integers(0, 999))
def test_rejected_tokens_are_left_out(simulate: Simulate, count: int, seed: int) -> None:
    arguments, indices, rejected = draw(count, seed)
    on_reference = [tensor.clone() for tensor in arguments]
    simulate(package, *arguments)
    package.reference(*on_reference)
    for results in (arguments, on_reference):
        assert results[3].tolist() == indices and results[4].tolist() == rejected


def test_the_example_of_the_documentation(simulate: Simulate) -> None:
    # Three drafts of which one is accepted; none; two, both accepted; two, and the request is discarded.
    arguments, indices, rejected = case([3, 0, 2, 2], [2, 1, 3, 0], [0, 9, 0, 0])
    assert (indices, rejected) == ([1, 13, 16, 16], [2, 0, 0, 3])
    simulate(package, *arguments)
    assert arguments[3].tolist() == indices and arguments[4].tolist() == rejected


@pytest.mark.parametrize("cores", [1, 2, 40])
def test_any_number_of_cores_does_the_same(simulate: Simulate, cores: int) -> None:
    arguments, indices, rejected = draw(5000, cores)
    simulate(package, *arguments, cores=cores)
    assert arguments[3].tolist() == indices and arguments[4].tolist() == rejected


@settings(max_examples=15, deadline=None)
@given(requests, st.integers(0, 999))
def test_the_operator_launches_it_on_the_device(npu: ModuleType, count: int, seed: int) -> None:
    assert loading.unavailable(package.KERNEL) is None
    arguments, indices, rejected = draw(count, seed)
    on_device = [tensor.npu() for tensor in arguments]
    torch.ops.ascend_patch.eagle_prepare_inputs_padded(*on_device)
    assert on_device[3].cpu().tolist() == indices and on_device[4].cpu().tolist() == rejected


def test_results_larger_than_the_batch_keep_their_rest(npu: ModuleType) -> None:
    arguments, _, rejected = draw(5, 1)
    arguments[4] = torch.full((8,), UNTOUCHED, dtype=torch.int32)
    on_device = [tensor.npu() for tensor in arguments]
    package.eagle_prepare_inputs_padded(*on_device)
    assert on_device[4].cpu().tolist() == [*rejected, UNTOUCHED, UNTOUCHED, UNTOUCHED]


def test_torch_accepts_the_operator() -> None:
    torch.library.opcheck(package.eagle_prepare_inputs_padded, tuple(draw(4, 0)[0]))


@pytest.mark.parametrize(
    ("place", "tensor", "error", "words"),
    [
        (0, torch.zeros(3, dtype=torch.int64), TypeError, "cu_num_draft_tokens is torch.int64"),
        (1, torch.zeros(2, dtype=torch.int32), ValueError, "valid_sampled_tokens_count has 2 entries"),
        (2, torch.zeros(3, dtype=torch.int32), ValueError, "query_start_loc has 3 entries, it must have at least 4"),
        (3, torch.zeros(3, 1, dtype=torch.int32), ValueError, "token_indices_to_sample has 2 dimensions"),
        (4, torch.zeros(6, dtype=torch.int32)[::2], ValueError, "num_rejected_tokens must be contiguous"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, tensor: torch.Tensor, error: type[Exception], words: str) -> None:
    arguments = draw(3, 0)[0]
    arguments[place] = tensor
    with pytest.raises(error, match=words):
        package.eagle_prepare_inputs_padded(*arguments)
