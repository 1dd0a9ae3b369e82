"""Experts that move between ranks while they serve (EPLB), with replicas of the busiest: the same tokens as ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm
from tests.end_to_end.ranks import Ranks
from tests.end_to_end.test_parallel import EXPERTS, GREEDY, OPTIONS
from tests.end_to_end.worker import Worker
from tests.models.families import prompts

RELEASE = Version(installed_vllm())
# Eight experts and two replicas on two ranks, which change places every five steps.
SOON = {"window_size": 4, "step_interval": 5, "num_redundant_experts": 2}
AT_FIRST = [*range(8), 0, 1]


@pytest.fixture
def tensor_parallel(tmp_path: Path) -> Iterator[Worker]:
    process = Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path))
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture
def data_parallel(tmp_path: Path) -> Iterator[Ranks]:
    ranks = Ranks(tmp_path, VLLM_ASCEND_PATCH_MOE_EXCHANGE="gather")
    yield ranks
    ranks.close()


def expected(worker: Worker, model: str) -> list[list[int]]:
    worker.call("make_family", family="mixtral", folder=model)
    reference = {"folder": model, "dtype": "float32", "prompts": prompts(), "count": GREEDY["max_tokens"]}
    return [answer["token_ids"] for answer in worker.call("reference_greedy", **reference)]


def balanced(**options: Any) -> dict[str, Any]:
    return {"enable_eplb": True, "eplb_config": {**SOON, **options}}


@pytest.mark.shows("Mixtral: TP2 + EP, experts that move (EPLB)", table="layouts")
def test_experts_move_between_steps(tensor_parallel: Worker, worker: Worker, tmp_path: Path) -> None:
    """Through HCCL, while all ranks wait."""
    model = str(tmp_path / "mixtral")
    tokens = expected(worker, model)
    over_hccl = {"communicator": "torch_nccl"} if Version("0.20.0") <= RELEASE else {}
    layout = {**EXPERTS, **balanced(use_async=False, **over_hccl)}
    tensor_parallel.call("load", name="moving", model=model, **OPTIONS, **layout)
    found = tensor_parallel.call("generate", name="moving", prompts=prompts(), params=GREEDY)
    assert [answer["token_ids"] for answer in found] == tokens
    first, second = tensor_parallel.call("replicas_of_experts", name="moving")
    assert first == second
    assert any(layer["replicas"] != AT_FIRST for layer in first), first
    for layer in first:
        assert set(layer["replicas"]) == set(range(8))
        assert layer["chosen"] > 0
    tensor_parallel.call("unload", name="moving")


@pytest.mark.slow
@pytest.mark.shows("Mixtral: DP2 + EP, experts that move meanwhile (EPLB)", table="layouts")
def test_experts_move_meanwhile(data_parallel: Ranks, worker: Worker, tmp_path: Path) -> None:
    """Through the hosts and in a thread of their own, layer by layer; one rank is idle for a while."""
    model, none = str(tmp_path / "mixtral"), ({}, {})
    tokens = expected(worker, model)
    data_parallel.call(
        "load", none, name="moving", model=model, enable_expert_parallel=True, **OPTIONS, **balanced(use_async=True)
    )
    own = ({"prompts": prompts()[:3]}, {"prompts": prompts()[3:]})
    answers = data_parallel.call("generate", own, name="moving", params=GREEDY)
    assert [answer["token_ids"] for each in answers for answer in each] == tokens
    (first,), (second,) = data_parallel.call("replicas_of_experts", none, name="moving")
    assert any(layer["replicas"] != AT_FIRST for layer in first), first
    assert [layer["replicas"] for layer in first] == [layer["replicas"] for layer in second]
    data_parallel.call("unload", none, name="moving")
