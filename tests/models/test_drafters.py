"""Heads that draft: the target's own tokens, and as many accepted drafts as without a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.worker import Worker
from tests.models.families import prompts

pytestmark = pytest.mark.shows("speculation with EAGLE, EAGLE-3, Medusa and MTP")
# Experts first: the first engine of a process makes its process groups, and a dense one makes none for experts.
KINDS = ("mtp", "eagle", "eagle3", "medusa")
LENGTH = 24
DRAFTS = 3
GREEDY = {"temperature": 0, "max_tokens": LENGTH, "ignore_eos": True, "detokenize": False}
Made = tuple[str, dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def drafter(reference: Worker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The target's folder, the speculative configuration, and what is expected of a kind of head; made on first use."""
    base = tmp_path_factory.mktemp("drafters")
    made: dict[str, Made] = {}

    def get(kind: str) -> Made:
        if kind not in made:
            target, folder = base / f"{kind}-target", base / kind
            reference.call("make_draft_target", kind=kind, folder=str(target))
            expected = reference.call(
                "make_drafter",
                kind=kind,
                target=str(target),
                folder=str(folder),
                prompts=prompts(),
                length=LENGTH,
                drafts=DRAFTS,
            )
            made[kind] = (*_served(kind, target, folder), expected)
        return made[kind]

    return get


def _served(kind: str, target: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    settings = {"method": kind, "num_speculative_tokens": DRAFTS}
    return (str(folder), settings) if kind == "mtp" else (str(target), {**settings, "model": str(folder)})


@pytest.mark.parametrize(
    ("kind", "asynchronous"),
    # vLLM refuses Medusa with asynchronous scheduling.
    [
        (kind, asynchronous)
        for kind in KINDS
        for asynchronous in (False, True)
        if (kind, asynchronous) != ("medusa", True)
    ],
    ids=lambda value: value if isinstance(value, str) else "asynchronous" if value else "synchronous",
)
def test_the_tokens_of_the_target_and_the_drafts_of_the_head(
    kind: str, asynchronous: bool, worker: Worker, drafter: Callable[[str], Made]
) -> None:
    model, speculative, expected = drafter(kind)
    name = f"{kind} {asynchronous}"
    worker.call(
        "load",
        name=name,
        model=model,
        dtype="float32",
        skip_tokenizer_init=True,
        disable_log_stats=False,
        async_scheduling=asynchronous,
        speculative_config=speculative,
    )
    answers = worker.call("generate", name=name, prompts=prompts(), params=GREEDY)
    assert [answer["token_ids"] for answer in answers] == [answer["token_ids"] for answer in expected]
    drafted, accepted = (sum(answer[key] for answer in expected) for key in ("drafted", "accepted"))
    assert accepted > 0.1 * drafted
    assert worker.call("accepted_drafts", name=name) == [drafted, accepted]
