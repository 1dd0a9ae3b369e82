"""Heads that draft: the target's own tokens, and as many accepted drafts as without a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import drafting_environment, installed_vllm
from tests.end_to_end.worker import Worker
from tests.models.families import prompts

pytestmark = pytest.mark.shows("speculation with EAGLE, EAGLE-3, Medusa and MTP")
KINDS = ("mtp", "eagle", "eagle3", "medusa")
LENGTH = 24
DRAFTS = 3
GREEDY = {"temperature": 0, "max_tokens": LENGTH, "ignore_eos": True, "detokenize": False}
RELEASE = Version(installed_vllm())
Made = tuple[str, dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process whose engines take drafts."""
    # DeepSeek's attention over whole keys and values, which is there in float32.
    environment = {**drafting_environment(), "VLLM_MLA_DISABLE": "1"}
    process = Worker(tmp_path_factory.mktemp("drafting") / "worker.log", **environment)
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


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
                behind_norm=Version("0.24.0") <= RELEASE,
            )
            made[kind] = (*_served(kind, target, folder), expected)
        return made[kind]

    return get


def _served(kind: str, target: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    settings = {"method": kind, "num_speculative_tokens": DRAFTS}
    return (str(folder), settings) if kind == "mtp" else (str(target), {**settings, "model": str(folder)})


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_the_target_and_the_drafts_of_the_head(
    kind: str, asynchronous: bool, drafting: Worker, drafter: Callable[[str], Made]
) -> None:
    if kind == "medusa" and Version("0.33.0") <= RELEASE:
        pytest.skip(f"vLLM had Medusa up to 0.32, not in {RELEASE}")
    if kind == "medusa" and asynchronous:
        pytest.skip("vLLM refuses Medusa with asynchronous scheduling")
    model, speculative, expected = drafter(kind)
    drafting.call(
        "load",
        name=kind,
        model=model,
        dtype="float32",
        skip_tokenizer_init=True,
        disable_log_stats=False,
        async_scheduling=asynchronous,
        speculative_config=speculative,
    )
    try:
        answers = drafting.call("generate", name=kind, prompts=prompts(), params=GREEDY)
        counts = drafting.call("accepted_drafts", name=kind)
    finally:
        drafting.call("unload", name=kind)
    assert [answer["token_ids"] for answer in answers] == [answer["token_ids"] for answer in expected]
    drafted, accepted = (sum(answer[key] for answer in expected) for key in ("drafted", "accepted"))
    assert accepted > 0.1 * drafted
    if Version("0.14.0") <= RELEASE:
        assert counts == [drafted, accepted]
    else:  # vLLM 0.13 itself lets later drafts of a request see the tokens that were rejected before
        assert counts[0] >= drafted and counts[1] >= 0.9 * accepted
