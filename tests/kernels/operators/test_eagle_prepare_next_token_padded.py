"""eagle_prepare_next_token_padded on the simulator and on hostcann, against the reference and a loop over tokens."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import eagle_prepare_next_token_padded as package
from ascend_patch.kernels import loading

from .conftest import Simulate

UNTOUCHED = -77


def case(requests: int, columns: int, padding: int, vocab: int, seed: int) -> list[Any]:
    """Sampled tokens with -1 behind the accepted ones, some of them beyond the vocabulary, rows `padding` apart."""
    generator = torch.Generator().manual_seed(seed)
    sampled = torch.randint(0, vocab, (requests, columns + padding), generator=generator, dtype=torch.int32)
    accepted = torch.randint(0, columns + 1, (requests, 1), generator=generator)
    sampled[torch.arange(columns + padding) >= accepted] = -1
    odd = torch.randint(0, 10, sampled.shape, generator=generator)
    sampled[odd == 0] = vocab
    sampled[odd == 1] = 2**31 - 1
    sampled[odd == 2] = -1
    return [
        sampled[:, :columns],
        torch.randint(0, 4, (requests,), generator=generator) == 0,
        torch.randint(0, vocab, (requests,), generator=generator, dtype=torch.int32),
        torch.full((requests,), UNTOUCHED, dtype=torch.int32),
        torch.full((requests,), UNTOUCHED, dtype=torch.int32),
        vocab,
    ]


def by_token(sampled: torch.Tensor, discard: torch.Tensor, backup: torch.Tensor, vocab: int) -> tuple[Any, Any]:
    following, counts = [], []
    for row, dropped, spare in zip(sampled.tolist(), discard.tolist(), backup.tolist(), strict=True):
        valid = [] if dropped else [token for token in row if token != -1 and token < vocab]
        following.append(valid[-1] if valid else spare)
        counts.append(len(valid))
    return following, counts


cases = st.builds(
    case,
    st.one_of(st.integers(0, 20), st.sampled_from([255, 256, 257, 600])),
    st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 300])),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([1, 100, 151_936, 2**31 - 1]),
    st.integers(0, 999),
)


@settings(max_examples=60, deadline=None)
@given(cases)
@example(case(3, package.COLUMNS, 0, 1000, 0))
@example(case(2, package.COLUMNS, 1, 1000, 1))
def test_the_last_valid_token_goes_on(simulate: Simulate, arguments: list[Any]) -> None:
    sampled, discard, backup, *_, vocab = arguments
    following, counts = by_token(sampled, discard, backup, vocab)
    on_reference = [value.clone() if isinstance(value, torch.Tensor) else value for value in arguments]
    simulate(package, *arguments)
    package.reference(*on_reference)
    for results in (arguments, on_reference):
        assert results[3].tolist() == following and results[4].tolist() == counts


@pytest.mark.parametrize("cores", [1, 40])
def test_any_number_of_cores_does_the_same(simulate: Simulate, cores: int) -> None:
    arguments = case(2000, 4, 1, 1000, 5)
    following, counts = by_token(*arguments[:3], arguments[5])
    simulate(package, *arguments, cores=cores)
    assert arguments[3].tolist() == following and arguments[4].tolist() == counts


@settings(max_examples=15, deadline=None)
@given(cases)
def test_the_operator_launches_it_on_the_device(npu: ModuleType, arguments: list[Any]) -> None:
    assert loading.unavailable(package.KERNEL) is None
    following, counts = by_token(*arguments[:3], arguments[5])
    on_device = [value.npu() if isinstance(value, torch.Tensor) else value for value in arguments]
    torch.ops.ascend_patch.eagle_prepare_next_token_padded(*on_device)
    assert on_device[3].cpu().tolist() == following and on_device[4].cpu().tolist() == counts


def test_torch_accepts_the_operator() -> None:
    torch.library.opcheck(package.eagle_prepare_next_token_padded, tuple(case(4, 3, 0, 100, 0)))


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (0, torch.zeros(3, 2, dtype=torch.int64), TypeError, "sampled_token_ids is torch.int64"),
        (0, torch.zeros(2, 3, dtype=torch.int32).T, ValueError, "last dimension of sampled_token_ids"),
        (0, torch.zeros(3, 0, dtype=torch.int32), ValueError, "0 sampled tokens per request"),
        (0, torch.zeros(1, dtype=torch.int32).expand(3, 1), ValueError, "overlap"),
        (1, torch.zeros(3, dtype=torch.uint8), TypeError, "discard_request_mask is torch.uint8"),
        (2, torch.zeros(2, dtype=torch.int32), ValueError, "backup_next_token_ids has 2 entries"),
        (5, 0, ValueError, "vocab_size is 0"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, value: Any, error: type[Exception], words: str) -> None:
    arguments = case(3, 2, 0, 100, 0)
    arguments[place] = value
    with pytest.raises(error, match=words):
        package.eagle_prepare_next_token_padded(*arguments)
