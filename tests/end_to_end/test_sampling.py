"""Sampling against an implementation of its own: plain Python on the engine's raw logits."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from tests.models.families import VOCABULARY, prompts

pytestmark = pytest.mark.shows("sampling parameters and log-probabilities")

PROMPT = prompts()[0]
NOTHING = -math.inf


@pytest.fixture(scope="module")
def raw(tiny_engine: Any) -> Any:
    """Returns logits, before anything is applied to them."""
    return tiny_engine(logprobs_mode="raw_logits", max_logprobs=-1)


@pytest.fixture(scope="module")
def processed(tiny_engine: Any) -> Any:
    """Returns the log-probabilities that are sampled from."""
    return tiny_engine(logprobs_mode="processed_logprobs", max_logprobs=-1)


def row(position: dict[str, float]) -> list[float]:
    assert len(position) == VOCABULARY
    return [position[str(token)] for token in range(VOCABULARY)]


def raw_logits(raw: Any, context: list[int]) -> list[float]:
    params = {"temperature": 0, "max_tokens": 1, "logprobs": -1, "detokenize": False, "ignore_eos": True}
    (answer,) = raw.generate([context], params)
    return row(answer["logprobs"][0])


def penalised(logits: list[float], prompt: list[int], output: list[int], options: dict[str, Any]) -> list[float]:
    """OpenAI's presence and frequency penalties over the output; the repetition penalty over prompt and output."""
    counts = Counter(output)
    result = []
    for token, logit in enumerate(logits):
        if token in counts or token in prompt:
            factor = options.get("repetition_penalty", 1.0)
            logit = logit / factor if logit > 0 else logit * factor
        logit -= options.get("frequency_penalty", 0.0) * counts[token]
        logit -= options.get("presence_penalty", 0.0) * (token in counts)
        result.append(logit)
    return result


def log_softmax(logits: list[float]) -> list[float]:
    best = max(logits)
    total = math.log(sum(math.exp(logit - best) for logit in logits)) + best
    return [logit - total for logit in logits]


def keep(logits: list[float], chosen: set[int]) -> list[float]:
    return [logit if token in chosen else NOTHING for token, logit in enumerate(logits)]


def filtered(logits: list[float], options: dict[str, Any]) -> list[float]:
    """Temperature, then min-p, top-k and top-p, each on what the one before has left; log-probabilities."""
    logits = [logit / options.get("temperature", 1.0) for logit in logits]
    if "min_p" in options:
        chances = [math.exp(value) for value in log_softmax(logits)]
        bound = options["min_p"] * max(chances)
        logits = keep(logits, {token for token, chance in enumerate(chances) if chance >= bound})
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if "top_k" in options:
        logits = keep(logits, set(order[: options["top_k"]]))
    if "top_p" in options:
        chosen, mass = set(), 0.0
        chances = [math.exp(value) for value in log_softmax(logits)]
        for token in order:
            if mass >= options["top_p"]:
                break
            chosen.add(token)
            mass += chances[token]
        logits = keep(logits, chosen)
    return log_softmax(logits)


SETTINGS = {
    "temperature": {"temperature": 0.6},
    "high temperature": {"temperature": 1.7},
    "top-k": {"temperature": 1.0, "top_k": 7},
    "top-k of one": {"temperature": 1.0, "top_k": 1},
    "top-p": {"temperature": 1.0, "top_p": 0.83},
    "top-k and top-p": {"temperature": 0.9, "top_k": 20, "top_p": 0.7},
    "min-p": {"temperature": 1.0, "min_p": 0.07},
    "all three": {"temperature": 1.2, "min_p": 0.01, "top_k": 30, "top_p": 0.9},
    "repetition penalty": {"temperature": 1.0, "repetition_penalty": 1.3},
    "presence and frequency": {"temperature": 1.0, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    "penalties and filters": {
        "temperature": 0.8, "repetition_penalty": 1.2, "frequency_penalty": -0.3, "top_k": 12, "top_p": 0.95,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_distribution_is_exact(options: dict[str, Any], raw: Any, processed: Any) -> None:
    params = {**options, "max_tokens": 4, "seed": 5, "logprobs": -1, "detokenize": False, "ignore_eos": True}
    (answer,) = processed.generate([PROMPT], params)
    for index, token in enumerate(answer["token_ids"]):
        output = answer["token_ids"][:index]
        logits = penalised(raw_logits(raw, PROMPT + output), PROMPT, output, options)
        expected, got = filtered(logits, options), row(answer["logprobs"][index])
        assert expected[token] > NOTHING, "a token was sampled that the settings exclude"
        for wanted, found in zip(expected, got, strict=True):
            assert found == wanted or abs(found - wanted) < 1e-3


def test_one_batch_with_all_settings_at_once(raw: Any, processed: Any) -> None:
    """Rows of a batch keep their own settings."""
    common = {"max_tokens": 1, "logprobs": -1, "detokenize": False, "ignore_eos": True}
    every = list(SETTINGS.values())[:8]
    answers = processed.generate([PROMPT] * len(every), [{**options, **common} for options in every])
    logits = raw_logits(raw, PROMPT)
    for options, answer in zip(every, answers, strict=True):
        expected = filtered(penalised(logits, PROMPT, [], options), options)
        for wanted, found in zip(expected, row(answer["logprobs"][0]), strict=True):
            assert found == wanted or abs(found - wanted) < 1e-3


@pytest.mark.parametrize("seeded", [True, False], ids=["seeded", "unseeded"])
def test_frequencies_follow_the_distribution(seeded: bool, raw: Any, processed: Any) -> None:
    """800 draws from four tokens: every count within 4.5 standard deviations."""
    options = {"temperature": 1.3, "top_k": 4}
    draws = 800
    common = {**options, "max_tokens": 1, "detokenize": False, "ignore_eos": True}
    params = [{**common, "seed": number} if seeded else common for number in range(draws)]
    counts = Counter(answer["token_ids"][0] for answer in processed.generate([PROMPT] * draws, params))
    chances = [math.exp(value) for value in filtered(raw_logits(raw, PROMPT), options)]
    assert set(counts) <= {token for token, chance in enumerate(chances) if chance > 0}
    for token, chance in enumerate(chances):
        deviation = math.sqrt(draws * chance * (1 - chance))
        assert abs(counts[token] - draws * chance) <= 4.5 * deviation + 1e-9


def test_seed_decides_whatever_the_batch(processed: Any) -> None:
    params = {"temperature": 1.5, "max_tokens": 8, "seed": 11, "detokenize": False, "ignore_eos": True}
    (alone,) = processed.generate([PROMPT], params)
    others = [{**params, "seed": number} for number in (1, 2)]
    batch = processed.generate([PROMPT] * 3, [others[0], params, others[1]])
    assert batch[1]["token_ids"] == alone["token_ids"]
    assert len({tuple(answer["token_ids"]) for answer in batch}) == 3


def test_several_answers_per_prompt(processed: Any) -> None:
    params = {"temperature": 1.5, "n": 3, "max_tokens": 6, "seed": 3, "detokenize": False, "ignore_eos": True}
    (answer,) = processed.generate([PROMPT], params)
    assert len({tuple(output["token_ids"]) for output in answer["outputs"]}) == 3


def test_logit_bias_and_banned_tokens(raw: Any, processed: Any) -> None:
    logits = raw_logits(raw, PROMPT)
    best = max(range(VOCABULARY), key=logits.__getitem__)
    worst = min(range(VOCABULARY), key=logits.__getitem__)
    common = {"temperature": 0, "max_tokens": 1, "detokenize": False, "ignore_eos": True}
    (biased,) = processed.generate([PROMPT], {**common, "logit_bias": {str(worst): 100.0}})
    (allowed,) = processed.generate([PROMPT], {**common, "allowed_token_ids": [worst]})
    (plain,) = processed.generate([PROMPT], common)
    assert plain["token_ids"] == [best]
    assert biased["token_ids"] == allowed["token_ids"] == [worst]
