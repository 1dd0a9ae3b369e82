"""LoRA adapters on the experts of a mixture, against models with the adapter merged into their weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import skip_before
from tests.end_to_end.test_lora import answers, merged_answers
from tests.end_to_end.worker import Worker, WorkerError

pytestmark = pytest.mark.shows("LoRA adapters on experts")

# An adapter of everything, one of higher rank of the experts alone, and one that leaves the experts as they are.
FORMS: list[dict[str, Any]] = [
    {"rank": 8},
    {"rank": 16, "parts": ["experts"]},
    {"rank": 8, "parts": ["self_attn"]},
]
CHOSEN = [0, None, 1, 2, 1, 0, None, 2]
OPTIONS = {"rank": 16, "max_loras": 3}


class Adapters:
    """A model, adapters for it, and what transformers answers with them merged in."""

    def __init__(self, worker: Worker, family: str, folder: Path) -> None:
        self.model = str(folder / family)
        worker.call("make_family", family=family, folder=self.model)
        made = [(str(folder / f"adapter-{number}"), str(folder / f"merged-{number}")) for number in range(len(FORMS))]
        for seed, ((adapter, merged), form) in enumerate(zip(made, FORMS, strict=True), 1):
            worker.call("make_adapter", model=self.model, folder=adapter, merged=merged, seed=seed, **form)
        self.chosen = [None if index is None else made[index][0] for index in CHOSEN]
        self.expected = merged_answers(worker, self.model, made, CHOSEN)
        plain = merged_answers(worker, self.model, made, [None] * len(CHOSEN))
        assert [ours != base for ours, base in zip(self.expected, plain, strict=True)] == [
            index is not None for index in CHOSEN
        ]


@pytest.fixture(scope="module")
def qwen(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    return Adapters(worker, "qwen3-moe", tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def mixtral(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    return Adapters(worker, "mixtral", tmp_path_factory.mktemp("mixtral"))


@pytest.fixture
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Worker]:
    """A process of its own, with the environment of the parameter."""
    process = Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path), **getattr(request, "param", {}))
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


def test_each_request_has_its_own_experts(process: Worker, qwen: Adapters) -> None:
    # Not beside engines of dense models, whose process groups lack the one of experts.
    assert answers(process, qwen.model, qwen.chosen, **OPTIONS) == qwen.expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"enable_expert_parallel": True}, {"fully_sharded_loras": True}],
    ids=["whole experts", "all shared out"],
)
def test_on_two_devices(options: dict[str, Any], process: Worker, mixtral: Adapters) -> None:
    if "enable_expert_parallel" in options:
        skip_before("0.21.0", "adapters with expert parallelism")
    else:
        skip_before("0.14.0", "the right shares of an adapter below the highest rank")
    layout = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    assert answers(process, mixtral.model, mixtral.chosen, **OPTIONS, **layout, **options) == mixtral.expected


@pytest.mark.parametrize("process", [{"VLLM_ASCEND_PATCH_DISABLE": "lora.experts"}], indirect=True, ids=["off"])
def test_without_the_patch_adapters_are_refused_with_the_remedy(process: Worker, qwen: Adapters) -> None:
    with pytest.raises(WorkerError, match=r"ascend-patch enable lora\.experts"):
        answers(process, qwen.model, qwen.chosen, **OPTIONS)
