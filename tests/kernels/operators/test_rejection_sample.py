"""rejection_sample on the simulator and on hostcann, against the reference, a loop over tokens and the distribution."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import rejection_sample as package
from ascend_patch.kernels.sample_recovered_tokens import sample_recovered_tokens

from .conftest import Simulate

V = 151_936
NAMES = (
    *("cu_num_draft_tokens", "draft_token_ids", "draft_probs", "target_probs", "target_argmax", "bonus_token_ids"),
    *("recovered_token_ids", "uniform_probs", "temperature", "synthetic_rates", "max_spec_len"),
)
MODES = ("greedy", "random", "mixed")


def case(
    counts: list[int],
    vocab: int,
    mode: str = "mixed",
    drafted: bool = True,
    synthetic: bool = False,
    double: bool = True,
    seed: int = 0,
    padding: int = 0,
) -> dict[str, Any]:
    """Random arguments by name; draft tokens agree with the target often enough for every length to occur."""
    generator = torch.Generator().manual_seed(seed)
    tokens, requests = sum(counts), len(counts)
    longest = max(counts, default=0)

    def integers(low: int, size: int) -> torch.Tensor:
        return torch.randint(low, vocab, (size,), generator=generator, dtype=torch.int32)

    def probs() -> torch.Tensor:
        return torch.randn(tokens, vocab + padding, generator=generator).softmax(1)[:, :vocab]

    argmax = integers(0, tokens).to(torch.int64)
    drafts = torch.where(torch.rand(tokens, generator=generator) < 0.8, argmax.to(torch.int32), integers(-1, tokens))
    uniform = torch.rand(tokens, dtype=torch.float64, generator=generator)
    temperature = torch.tensor([0.0, 0.7, 1.0]).repeat(requests)[:requests]
    greedy = mode == "greedy"
    return {
        "cu_num_draft_tokens": torch.tensor(counts).cumsum(0).to(torch.int32),
        "draft_token_ids": drafts,
        "draft_probs": probs() if drafted and not greedy else None,
        "target_probs": None if greedy else probs(),
        "target_argmax": None if mode == "random" else argmax,
        "bonus_token_ids": integers(0, requests).unsqueeze(1),
        "recovered_token_ids": None if greedy else integers(0, tokens),
        "uniform_probs": None if greedy and not synthetic else uniform if double else uniform.float(),
        "temperature": None if greedy else temperature + 0.5 if mode == "random" else temperature,
        "synthetic_rates": torch.rand(longest, generator=generator) if synthetic else None,
        "max_spec_len": longest,
    }


def by_definition(arguments: dict[str, Any]) -> list[list[int]]:
    """Request by request, in Python's integers and float64."""
    drafts, rates = arguments["draft_token_ids"].tolist(), arguments["synthetic_rates"]
    rows, begin = [], 0
    for request, end in enumerate(arguments["cu_num_draft_tokens"].tolist()):
        temperature = 0.0 if arguments["temperature"] is None else float(arguments["temperature"][request])
        row: list[int] = []
        for token in range(begin, end):
            draft, place = drafts[token], token - begin
            if rates is not None:
                stays = draft >= 0 and float(arguments["uniform_probs"][token]) < float(rates[place])
            elif temperature == 0:
                stays = draft == int(arguments["target_argmax"][token])
            else:
                # The quotient is rounded to float32, as in vLLM.
                quotient = arguments["target_probs"][token, draft]
                if arguments["draft_probs"] is not None:
                    quotient = quotient / arguments["draft_probs"][token, draft]
                stays = draft >= 0 and float(quotient) >= float(arguments["uniform_probs"][token])
            other = arguments["target_argmax" if temperature == 0 else "recovered_token_ids"]
            row.append(draft if stays else int(other[token]))
            if not stays:
                break
        else:
            row.append(int(arguments["bonus_token_ids"][request, 0]))
        rows.append(row + [-1] * (arguments["max_spec_len"] + 1 - len(row)))
        begin = end
    return rows


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 5), st.just(128)), min_size=1, max_size=6),
    st.one_of(st.integers(1, 9), st.integers(1000, 1010)),
    st.sampled_from(MODES),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
    st.sampled_from([0, 3]),
)
def test_kernel_reference_and_definition_agree(
    simulate: Simulate,
    counts: list[int],
    vocab: int,
    mode: str,
    drafted: bool,
    synthetic: bool,
    double: bool,
    seed: int,
    padding: int,
) -> None:
    arguments = case(counts, vocab, mode, drafted, synthetic, double, seed, padding)
    expected = by_definition(arguments)
    assert package.reference(*arguments.values()).tolist() == expected
    assert simulate(package, *arguments.values()).tolist() == expected


@pytest.mark.parametrize("mode", MODES)
def test_every_length_occurs(simulate: Simulate, mode: str) -> None:
    rows = simulate(package, *case([4] * 60, 50, mode).values())
    assert sorted(set((rows >= 0).sum(1).tolist())) == [1, 2, 3, 4, 5]


# A float64 between two float32 numbers: rounded to the nearest float32 it would compare as equal.
@pytest.mark.parametrize("quotient", [0.1, 0.25, 0.75, 1e-30, 1.0, 0.0])
@pytest.mark.parametrize("away", [-1, 0, 1])
def test_uniform_numbers_are_compared_in_all_their_digits(simulate: Simulate, quotient: float, away: int) -> None:
    target = torch.tensor([[quotient, 0.0]])
    uniform = target[0, :1].double() * (1 + away * 2.0**-50)
    arguments = case([1], 2, "random", drafted=False)
    arguments |= {"target_probs": target, "uniform_probs": uniform, "draft_token_ids": torch.zeros(1).int()}
    arguments |= {"recovered_token_ids": torch.ones(1).int()}
    stays = float(target[0, 0]) >= float(uniform[0])
    assert simulate(package, *arguments.values())[0, 0].item() == (0 if stays else 1)
    # Synthetic rates are compared the other way round, and strictly.
    arguments |= {"synthetic_rates": target[0, :1].clone()}
    stays = float(uniform[0]) < float(target[0, 0])
    assert simulate(package, *arguments.values())[0, 0].item() == (0 if stays else 1)


def test_a_draft_without_probability_is_rejected(simulate: Simulate) -> None:
    arguments = case([1], 2, "random")
    arguments |= {"draft_probs": torch.tensor([[0.0, 1.0]]), "target_probs": torch.tensor([[1.0, 0.0]])}
    arguments |= {"draft_token_ids": torch.zeros(1).int(), "recovered_token_ids": torch.ones(1).int()}
    for run in (package.reference, lambda *a: simulate(package, *a)):
        assert run(*arguments.values()).tolist() == [[1, -1]]


@pytest.mark.parametrize("drafted", [True, False])
def test_what_comes_out_is_distributed_like_the_target(npu: ModuleType, drafted: bool) -> None:
    # The point of rejection sampling: drafts from one distribution, results from the other.
    requests, generator = 20_000, torch.Generator().manual_seed(2)
    target, draft = torch.tensor([0.5, 0.2, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.1, 0.5])
    if drafted:
        drafts = draft.multinomial(requests, replacement=True, generator=generator).to(torch.int32)
    else:
        drafts = torch.full((requests,), 3, dtype=torch.int32)  # n-gram drafts are certain
    ends = torch.arange(1, requests + 1, dtype=torch.int32).npu()
    draft_probs = draft.repeat(requests, 1).npu() if drafted else None
    target_probs, on_device = target.repeat(requests, 1).npu(), drafts.npu()
    q = torch.empty(requests, 4).exponential_(generator=generator).npu()
    uniform = torch.rand(requests, dtype=torch.float64, generator=generator).npu()
    recovered = sample_recovered_tokens(ends, on_device, draft_probs, target_probs, q)
    bonus, temperature = torch.zeros_like(ends), torch.ones(requests, device="npu")
    found = package.rejection_sample(
        *(ends, on_device, draft_probs, target_probs, None, bonus, recovered, uniform, temperature, None, 1)
    )
    shares = found.cpu()[:, 0].bincount(minlength=4) / requests
    # Five standard deviations of a share of 0.5.
    torch.testing.assert_close(shares, target, rtol=0, atol=0.0177)


@pytest.mark.parametrize("mode", MODES)
def test_the_operator_on_the_device(npu: ModuleType, mode: str) -> None:
    arguments = case([3, 0, 5, 1], V, mode)
    found = torch.ops.ascend_patch.rejection_sample(*on_npu(arguments))
    assert found.cpu().tolist() == by_definition(arguments)


def test_more_requests_than_cores_on_the_device(npu: ModuleType) -> None:
    arguments = case([2, 0, 4, 1] * 100, 60)
    assert package.rejection_sample(*on_npu(arguments)).cpu().tolist() == by_definition(arguments)


def test_one_launch_on_the_device(npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    arguments = on_npu(case([3, 2], 100))
    package.rejection_sample(*arguments)
    with trace.recording() as counts:
        package.rejection_sample(*arguments)
        seen = counts()
    assert (seen["launches"], seen["syncs"]) == (1, 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_without_draft_tokens_there_is_the_bonus(npu: ModuleType, mode: str, counts: list[int]) -> None:
    arguments = case(counts, 9, mode)
    expected = arguments["bonus_token_ids"].tolist()
    assert package.rejection_sample(*arguments.values()).tolist() == expected
    assert package.rejection_sample(*on_npu(arguments)).cpu().tolist() == expected


def test_a_compiler_sees_one_operator() -> None:
    torch.library.opcheck(package.rejection_sample, tuple(case([3, 2], 40).values()))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"max_spec_len": 129}, ValueError, "max_spec_len is 129, it must be 0 to 128"),
        ({"temperature": None, "target_argmax": None}, ValueError, "needs target_argmax"),
        ({"uniform_probs": None}, ValueError, "random requests need"),
        ({"target_probs": None}, ValueError, "leave out temperature if all are greedy"),
        (
            {"temperature": None, "uniform_probs": None, "synthetic_rates": torch.zeros(3)},
            ValueError,
            "uniform_probs, which are missing",
        ),
        ({"draft_token_ids": torch.zeros(5, dtype=torch.int64)}, TypeError, "draft_token_ids is torch.int64"),
        ({"target_argmax": torch.zeros(5, dtype=torch.int32)}, TypeError, "it must be torch.int64"),
        ({"uniform_probs": torch.zeros(5, dtype=torch.float16)}, TypeError, "torch.float32 or torch.float64"),
        ({"bonus_token_ids": torch.zeros(3, dtype=torch.int32)}, ValueError, r"contiguous vector of 2, not \(3,\)"),
        ({"draft_probs": torch.zeros(5, 41)}, ValueError, r"draft_probs are \(5, 41\), target_probs \(5, 40\)"),
        ({"target_probs": torch.zeros(40, 5).T}, ValueError, "target_probs must have 5 contiguous rows"),
        ({"target_probs": torch.zeros(5, 40).bfloat16()}, TypeError, "target_probs is torch.bfloat16"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = case([3, 2], 40) | changes
    with pytest.raises(error, match=words):
        package.rejection_sample(*arguments.values())


def test_the_arguments_of_these_tests_are_those_of_the_operator() -> None:
    schema = package.rejection_sample._schema
    assert tuple(argument.name for argument in schema.arguments) == NAMES == tuple(case([1], 2))


def on_npu(arguments: dict[str, Any]) -> list[Any]:
    return [value.npu() if isinstance(value, torch.Tensor) else value for value in arguments.values()]
