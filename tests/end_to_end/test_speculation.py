"""Speculative decoding: the same tokens as without, and drafts that are really accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Engine, drafting_environment, skip_before
from tests.end_to_end.worker import Worker
from tests.models.families import prompts

GREEDY = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, "detokenize": False}
REPETITIVE = [
    "one two three four one two three four one two",
    "The cat sat on the mat. The cat sat on the mat. The cat",
]


OPTIONS = {"dtype": "float32", "max_model_len": 512}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}


@pytest.fixture(scope="module")
def drafting_process(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Where engines take drafts."""
    environment = drafting_environment()
    if not environment:
        yield worker
        return
    process = Worker(tmp_path_factory.mktemp("drafting") / "worker.log", **environment)
    yield process
    # vLLM's client may see the engine's process end before its own and call that unexpected.
    process.call("unload", name="n-grams")
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(scope="module")
def ngrams(drafting_process: Worker, demo_model_folder: Path) -> Engine:
    """The demo model with drafts from what was said before."""
    options = {**OPTIONS, "speculative_config": NGRAM, "disable_log_stats": False}
    facts = drafting_process.call("load", name="n-grams", model=str(demo_model_folder), **options)
    return Engine(drafting_process, "n-grams", facts)


def draft_models_only() -> None:
    skip_before("0.16.0", "draft models that prepare their inputs with EAGLE's kernels")


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["token_ids"] for answer in answers]


DRAFTS = pytest.mark.shows("speculation with a draft model")
NGRAMS = pytest.mark.shows("speculation with n-grams")


@DRAFTS
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


@NGRAMS
def test_ngrams_of_the_prompt(ngrams: Engine, engine: Callable[..., Engine], demo_model_folder: Path) -> None:
    plain = engine(demo_model_folder, **OPTIONS)
    greedy = {**GREEDY, "max_tokens": 20}
    assert tokens(ngrams.generate(REPETITIVE, greedy)) == tokens(plain.generate(REPETITIVE, greedy))
    drafted, accepted = ngrams.worker.call("accepted_drafts", name=ngrams.name)
    assert drafted > 0 and accepted >= 0.5 * drafted


@NGRAMS
def test_sampling_with_ngrams_depends_on_the_seed_only(
    ngrams: Engine, engine: Callable[..., Engine], demo_model_folder: Path
) -> None:
    greedy = {**GREEDY, "max_tokens": 20}
    seeded, other = ({**greedy, "temperature": 1.0, "seed": seed} for seed in (7, 8))
    before, _ = ngrams.worker.call("accepted_drafts", name=ngrams.name)
    first = tokens(ngrams.generate(REPETITIVE, [seeded, greedy]))
    again = tokens(ngrams.generate(REPETITIVE, [seeded, greedy]))
    changed = tokens(ngrams.generate(REPETITIVE, [other, greedy]))
    after, _ = ngrams.worker.call("accepted_drafts", name=ngrams.name)
    assert after > before
    assert first == again
    assert changed[0] != first[0]
    (exact,) = tokens(engine(demo_model_folder, **OPTIONS).generate(REPETITIVE[1:], greedy))
    assert [first[1], changed[1]] == [exact, exact]


@DRAFTS
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
