"""token_logprob_and_rank on the simulator and on hostcann, against the reference, vLLM and float64."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import token_logprob_and_rank as package

from .conftest import Simulate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
V = 151_936


def case(
    rows: int, vocab: int, columns: int, dtype: torch.dtype, seed: int = 0, padding: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab + padding, generator=generator) * 5 + 3).to(dtype)[:, :vocab]
    tokens = torch.randint(0, vocab, (rows, columns + padding), generator=generator)[:, :columns]
    return logits, tokens


def close(found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=2e-5)
    assert found[1].dtype == torch.int64 and found[1].tolist() == expected[1].tolist()


def by_definition(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In Python's float64, row by row."""
    logprobs, ranks = [], []
    for row, chosen in zip(logits.tolist(), tokens.tolist(), strict=True):
        total = math.log(math.fsum(math.exp(value) for value in row))
        logprobs.append([row[token] - total for token in chosen])
        ranks.append(sum(value >= row[chosen[0]] for value in row))
    return torch.tensor(logprobs), torch.tensor(ranks)


shapes = st.tuples(
    st.integers(1, 7),
    st.one_of(st.integers(1, 70), st.sampled_from([8191, 8192, 8193, 16_389, 24_576])),
    st.one_of(st.integers(1, 9), st.sampled_from([511, 512, 513, 1025])),
    st.sampled_from([0, 3]),
)


@settings(max_examples=120, deadline=None)
@given(shapes, st.sampled_from(DTYPES), st.integers(0, 99), st.booleans())
def test_the_kernel_computes_what_the_reference_computes(
    simulate: Simulate, shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int, normalize: bool
) -> None:
    rows, vocab, columns, padding = shape
    logits, tokens = case(rows, vocab, columns, dtype, seed, padding)
    close(simulate(package, logits, tokens, normalize), package.reference(logits, tokens, normalize))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 7, 9001])
def test_both_follow_the_definition(simulate: Simulate, vocab: int, dtype: torch.dtype) -> None:
    logits, tokens = case(4, vocab, 3, dtype, seed=3)
    expected = by_definition(logits, tokens)
    close(simulate(package, logits, tokens), expected)
    close(package.reference(logits, tokens), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_normalized_come_back_as_they_are(simulate: Simulate, dtype: torch.dtype) -> None:
    logits, tokens = case(4, 9001, 3, dtype, seed=4)
    chosen = [[row[token] for token in some] for row, some in zip(logits.tolist(), tokens.tolist(), strict=True)]
    ranks = by_definition(logits, tokens)[1].tolist()
    for found in (simulate(package, logits, tokens, False), package.reference(logits, tokens, False)):
        assert found[0].tolist() == chosen and found[1].tolist() == ranks


def test_it_gives_what_vllm_gathers(npu: ModuleType, simulate: Simulate) -> None:
    from vllm.v1.sample.sampler import Sampler

    # Whole numbers, far apart after any rounding: vLLM's ranks are of rounded log-probabilities.
    logits = torch.randint(-20, 20, (3, 9001), generator=torch.Generator().manual_seed(1)).float()
    sampled = torch.tensor([0, 4000, 9000])
    with torch.compiler.set_stance("force_eager"):
        expected = Sampler.gather_logprobs(Sampler.compute_logprobs(logits), 4, sampled)
    # Top-k of equal logits may come in any order, so take vLLM's.
    tokens = expected.logprob_token_ids.to(torch.int64)
    close(simulate(package, logits, tokens), (expected.logprobs, expected.selected_token_ranks))
    # From log-probabilities vLLM's own values, to the last bit.
    found = simulate(package, Sampler.compute_logprobs(logits), sampled.unsqueeze(1), False)
    assert found[0].tolist() == expected.logprobs[:, :1].tolist()
    assert found[1].tolist() == expected.selected_token_ranks.tolist()


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_large_logits_neither_overflow_nor_vanish(simulate: Simulate, shift: float) -> None:
    logits = torch.zeros(1, 20_000) + shift
    logits[0, 17_000] = shift + 64
    logprobs, ranks = simulate(package, logits, torch.tensor([[17_000, 0]]))
    torch.testing.assert_close(logprobs, torch.tensor([[0.0, -64.0]]), rtol=1e-6, atol=1e-6)
    assert ranks.tolist() == [1]


@pytest.mark.parametrize("allowed", [3, 19_999])
def test_tiles_of_forbidden_tokens_count_as_nothing(simulate: Simulate, allowed: int) -> None:
    logits = torch.full((1, 20_000), -torch.inf)
    logits[0, allowed] = 2.0
    logprobs, ranks = simulate(package, logits, torch.tensor([[allowed, 5]]))
    assert logprobs.tolist() == [[0.0, -math.inf]] and ranks.tolist() == [1]


def test_equal_logits_share_the_last_of_their_ranks(simulate: Simulate) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 5.0]])
    assert simulate(package, logits, torch.tensor([[1]]))[1].tolist() == [3]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("token", [-1, 70, 2**40])
def test_a_token_outside_the_vocabulary_is_impossible(simulate: Simulate, token: int, normalize: bool) -> None:
    logits, _ = case(1, 70, 1, torch.float32)
    for logprobs, ranks in (
        simulate(package, logits, torch.tensor([[token]]), normalize),
        package.reference(logits, torch.tensor([[token]]), normalize),
    ):
        assert logprobs.tolist() == [[-math.inf]] and ranks.tolist() == [70]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operator_on_the_device(npu: ModuleType, dtype: torch.dtype) -> None:
    logits, tokens = case(3, V, 21, dtype)
    found = torch.ops.ascend_patch.token_logprob_and_rank(logits.npu(), tokens.npu())
    close(tuple(tensor.cpu() for tensor in found), torch.ops.ascend_patch.token_logprob_and_rank(logits, tokens))


def test_one_launch_on_the_device(npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    arguments = [tensor.npu() for tensor in case(3, 100, 2, torch.float32)]
    package.token_logprob_and_rank(*arguments)
    with trace.recording() as counts:
        package.token_logprob_and_rank(*arguments)
        seen = counts()
    assert (seen["launches"], seen["syncs"]) == (1, 0)


@pytest.mark.parametrize("device", ["cpu", "npu"])
def test_without_rows_the_results_are_empty(npu: ModuleType, device: str) -> None:
    logits, tokens = (tensor.to(device) for tensor in case(0, 64, 2, torch.float32))
    logprobs, ranks = package.token_logprob_and_rank(logits, tokens)
    assert logprobs.shape == (0, 2) and ranks.shape == (0,)


def test_a_compiler_sees_one_operator() -> None:
    torch.library.opcheck(package.token_logprob_and_rank, case(2, 40, 3, torch.float32))


@pytest.mark.parametrize(
    ("place", "tensor", "error", "words"),
    [
        (0, torch.zeros(2, 40, dtype=torch.int32), TypeError, "logits are torch.int32"),
        (0, torch.zeros(40, 2).T, ValueError, "logits must be a matrix with contiguous rows"),
        (0, torch.zeros(2, 0), ValueError, "a vocabulary of 0"),
        (0, torch.zeros(1, 1).expand(2, 1 << 24), ValueError, "contiguous rows"),
        (1, torch.zeros(2, 3, dtype=torch.int32), TypeError, "token_ids are torch.int32"),
        (1, torch.zeros(3, 3, dtype=torch.int64), ValueError, r"must have 2 rows .* not \(3, 3\)"),
        (1, torch.zeros(2, 0, dtype=torch.int64), ValueError, "at least one column"),
        (1, torch.zeros(2, dtype=torch.int64), ValueError, "token_ids must be a matrix"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, tensor: torch.Tensor, error: type[Exception], words: str) -> None:
    arguments = list(case(2, 40, 3, torch.float32))
    arguments[place] = tensor
    with pytest.raises(error, match=words):
        package.token_logprob_and_rank(*arguments)
