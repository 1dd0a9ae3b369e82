"""Latent attention on two devices: half of the heads each, or half of the requests and of the experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.ranks import Ranks
from tests.end_to_end.worker import Worker
from tests.models import ties
from tests.models.families import prompts

FAMILY = "deepseek-v2-latent"
GREEDY = {"temperature": 0, "max_tokens": 8, "ignore_eos": True, "detokenize": False}
OPTIONS: dict[str, Any] = {
    "dtype": "bfloat16",
    "skip_tokenizer_init": True,
    "distributed_executor_backend": "mp",
    "enable_prefix_caching": True,
}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Worker]:
    """A process that sees two devices, with a folder of its own for its run."""
    process = Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path))
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.mark.shows("DeepSeek-V2, latent attention: TP2", table="layouts")
def test_tokens_are_those_of_transformers_with_and_without_cached_prefixes(
    process: Worker, worker: Worker, tmp_path: Path
) -> None:
    model = str(tmp_path / FAMILY)
    worker.call("make_family", family=FAMILY, folder=model)
    expected = worker.call(
        "reference_greedy", folder=model, dtype="bfloat16", prompts=prompts(), count=GREEDY["max_tokens"]
    )
    process.call("load", name="parallel", model=model, tensor_parallel_size=2, **OPTIONS)
    for cached in ([0, 0, 0, 0], [0, 128, 0, 256]):
        answers = process.call("generate", name="parallel", prompts=prompts(), params=GREEDY)
        assert [answer["cached_tokens"] for answer in answers] == cached
        ties.check(worker, model, prompts(), answers, expected)
    process.call("unload", name="parallel")


@pytest.mark.shows("DeepSeek-V2, latent attention: DP2 + EP, tokens gathered", table="layouts")
def test_requests_of_two_ranks_share_their_experts(worker: Worker, tmp_path: Path) -> None:
    model, none = str(tmp_path / FAMILY), ({}, {})
    worker.call("make_family", family=FAMILY, folder=model)
    expected = worker.call(
        "reference_greedy", folder=model, dtype="bfloat16", prompts=prompts(), count=GREEDY["max_tokens"]
    )
    ranks = Ranks(tmp_path, VLLM_ASCEND_PATCH_MOE_EXCHANGE="gather")
    try:
        ranks.call("load", none, name="e", model=model, enable_expert_parallel=True, **OPTIONS)
        own = ({"prompts": prompts()[:3]}, {"prompts": prompts()[3:]})
        found = [answer for answers in ranks.call("generate", own, name="e", params=GREEDY) for answer in answers]
        ties.check(worker, model, prompts(), found, expected)
        ranks.call("unload", none, name="e")
    finally:
        ranks.close()
