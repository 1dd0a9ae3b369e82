"""Sounds in prompts: Qwen2-Audio on the overlay against transformers on the CPU, greedy, token for token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.end_to_end.worker import Worker
from tests.models.listening import MARK
from tests.models.ties import equal_up_to_ties

pytestmark = pytest.mark.shows("sounds in prompts (Qwen2-Audio)")
COUNT = 8
# Far above float32 rounding (logits reach about 10), so that a different token is a different computation.
CLEAR_MARGIN = 2e-3
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
NAME = "qwen2-audio"
# A sound; two of other lengths; none; and the first with another sound of the same length.
PROMPTS = [
    {"text": f"t5 t7 {MARK} t9 t10", "sounds": [[1, 3.0]]},
    {"text": f"t15 {MARK} t17 t3 {MARK} t9 t10 t11", "sounds": [[2, 0.7], [3, 2.2]]},
    {"text": "t1 t2 t3 t4 t5", "sounds": []},
    {"text": f"t5 t7 {MARK} t9 t10", "sounds": [[4, 3.0]]},
]


@pytest.fixture(scope="module")
def folder(reference: Worker, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("models") / NAME)
    reference.call("make_listening", folder=path)
    return path


def expected(reference: Worker, folder: str, dtype: str) -> list[dict[str, Any]]:
    """transformers' answers, from the whole text and the whole sounds for each token."""
    arguments = {"folder": folder, "dtype": dtype, "prompts": PROMPTS, "count": COUNT}
    answers: list[dict[str, Any]] = reference.call("reference_look", **arguments)
    return answers


@pytest.fixture
def answers(worker: Worker, folder: str, request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """Those of an engine with the options that the test names, in one batch."""
    options = {"limit_mm_per_prompt": {"audio": 2}, "mm_processor_cache_gb": 0, "max_num_batched_tokens": 1024}
    worker.call("load_listening", name=NAME, model=folder, **{**options, **request.param})
    yield worker.call("look", name=NAME, prompts=PROMPTS, params=GREEDY)
    worker.call("unload", name=NAME)


@pytest.mark.parametrize(
    "answers",
    [{"dtype": "float32"}, {"dtype": "float32", "max_num_batched_tokens": 64, "enable_chunked_prefill": True}],
    ids=["at once", "in several steps"],
    indirect=True,
)
def test_float32_tokens_equal_transformers(answers: list[dict[str, Any]], reference: Worker, folder: str) -> None:
    theirs = expected(reference, folder, "float32")
    assert min(first[1] - second[1] for answer in theirs for first, second in answer["best"]) > CLEAR_MARGIN
    # Where the sound made no difference, an encoder that is computed wrongly would not show.
    assert theirs[0]["token_ids"] != theirs[3]["token_ids"]
    assert [answer["prompt_token_ids"] for answer in answers] == [answer["prompt_token_ids"] for answer in theirs]
    assert [answer["token_ids"] for answer in answers] == [answer["token_ids"] for answer in theirs]


@pytest.mark.parametrize("answers", [{"dtype": "bfloat16"}], ids=["bfloat16"], indirect=True)
def test_bfloat16_tokens_up_to_ties(answers: list[dict[str, Any]], reference: Worker, folder: str) -> None:
    theirs = expected(reference, folder, "bfloat16")
    for prompt, one, other in zip(PROMPTS, answers, theirs, strict=True):
        assert equal_up_to_ties(reference, folder, prompt, one["token_ids"], other["token_ids"])
