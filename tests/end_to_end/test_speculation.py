"""Speculative decoding: the same tokens as without, and drafts that are really accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import skip_before
from tests.models.families import prompts

GREEDY = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, "detokenize": False}
REPETITIVE = [
    "one two three four one two three four one two",
    "The cat sat on the mat. The cat sat on the mat. The cat",
]


NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}


def draft_models_only() -> None:
    skip_before("0.16.0", "draft models that prepare their inputs with EAGLE's kernels")


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["token_ids"] for answer in answers]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
def test_a_model_that_drafts_for_itself_is_always_right(asynchronous: bool, tiny_engine: Any, tiny_llama: str) -> None:
    draft_models_only()
    drafting = {"method": "draft_model", "model": tiny_llama, "num_speculative_tokens": 3}
    plain = tiny_engine()
    engine = tiny_engine(speculative_config=drafting, disable_log_stats=False, async_scheduling=asynchronous)
    assert engine.facts["async_scheduling"] is asynchronous
    assert tokens(engine.generate(prompts(), GREEDY)) == tokens(plain.generate(prompts(), GREEDY))
    drafted, accepted = engine.worker.call("accepted_drafts", name=engine.name)
    # Drafts behind a request's last token count as proposed and are not accepted: up to 2 of its 12 tokens' drafts.
    assert drafted > 0 and accepted >= 0.75 * drafted


def test_ngrams_of_the_prompt(engine: Callable[..., Any], demo_model_folder: Path) -> None:
    options = {"dtype": "float32", "max_model_len": 512}
    plain = engine(demo_model_folder, **options)
    drafting = engine(demo_model_folder, speculative_config=NGRAM, disable_log_stats=False, **options)
    greedy = {**GREEDY, "max_tokens": 20}
    assert tokens(drafting.generate(REPETITIVE, greedy)) == tokens(plain.generate(REPETITIVE, greedy))
    drafted, accepted = drafting.worker.call("accepted_drafts", name=drafting.name)
    assert drafted > 0 and accepted >= 0.5 * drafted


def test_sampling_with_ngrams_depends_on_the_seed_only(engine: Callable[..., Any], demo_model_folder: Path) -> None:
    options = {"dtype": "float32", "max_model_len": 512}
    drafting = engine(demo_model_folder, speculative_config=NGRAM, disable_log_stats=False, **options)
    greedy = {**GREEDY, "max_tokens": 20}
    seeded, other = ({**greedy, "temperature": 1.0, "seed": seed} for seed in (7, 8))
    before, _ = drafting.worker.call("accepted_drafts", name=drafting.name)
    first = tokens(drafting.generate(REPETITIVE, [seeded, greedy]))
    again = tokens(drafting.generate(REPETITIVE, [seeded, greedy]))
    changed = tokens(drafting.generate(REPETITIVE, [other, greedy]))
    after, _ = drafting.worker.call("accepted_drafts", name=drafting.name)
    assert after > before
    assert first == again
    assert changed[0] != first[0]
    (exact,) = tokens(engine(demo_model_folder, **options).generate(REPETITIVE[1:], greedy))
    assert [first[1], changed[1]] == [exact, exact]


def test_sampling_with_drafts_depends_on_the_seed_only(tiny_engine: Any, tiny_llama: str) -> None:
    """Random requests go through recovered tokens; greedy ones in the same batch stay exact."""
    draft_models_only()
    drafting = {"method": "draft_model", "model": tiny_llama, "num_speculative_tokens": 3}
    engine = tiny_engine(speculative_config=drafting, disable_log_stats=False, async_scheduling=False)
    seeded = {**GREEDY, "temperature": 1.2, "seed": 7}
    mixed = [seeded, GREEDY, seeded, GREEDY]
    first = tokens(engine.generate(prompts()[:4], mixed))
    assert tokens(engine.generate(prompts()[:4], mixed)) == first
    other = tokens(engine.generate(prompts()[:4], [{**seeded, "seed": 8}, GREEDY, {**seeded, "seed": 8}, GREEDY]))
    assert other[0] != first[0] and other[2] != first[2]
    greedy = tokens(tiny_engine().generate(prompts()[:4], GREEDY))
    assert [first[1], first[3]] == [other[1], other[3]] == [greedy[1], greedy[3]]
