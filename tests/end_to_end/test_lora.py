"""LoRA adapters in one batch, against models with the adapter merged into their weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.worker import Worker, WorkerError
from tests.models.families import prompts

pytestmark = pytest.mark.shows("LoRA adapters")

COUNT = 8
PROMPTS = prompts() * 2
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}


@pytest.fixture(scope="module")
def adapters(worker: Worker, tiny_llama: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """(adapter, model with it merged in), twice."""
    folder = tmp_path_factory.mktemp("adapters")
    made = [(str(folder / f"adapter-{seed}"), str(folder / f"merged-{seed}")) for seed in (1, 2)]
    for seed, (adapter, merged) in enumerate(made, 1):
        worker.call("make_adapter", model=tiny_llama, folder=adapter, merged=merged, seed=seed)
    return made


@pytest.fixture
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Worker]:
    """A process of its own, with the environment of the parameter."""
    process = Worker(tmp_path / "worker.log", **request.param)
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


def answers(process: Worker, model: str, chosen: list[str | None]) -> list[list[int]]:
    options: dict[str, Any] = {"dtype": "float32", "skip_tokenizer_init": True, "enable_lora": True, "max_loras": 2}
    process.call("load", name="lora", model=model, max_lora_rank=8, **options)
    found: list[list[int]] = process.call(
        "generate_with_adapters", name="lora", prompts=PROMPTS[: len(chosen)], params=GREEDY, adapters=chosen
    )
    process.call("unload", name="lora")
    return found


CHOSEN = [0, None, 1, 0, 1, None]


@pytest.fixture(scope="module")
def chosen(adapters: list[tuple[str, str]]) -> list[str | None]:
    return [None if index is None else adapters[index][0] for index in CHOSEN]


@pytest.fixture(scope="module")
def expected(worker: Worker, tiny_llama: str, adapters: list[tuple[str, str]]) -> list[list[int]]:
    """What transformers answers with the merged weights."""
    found = []
    for index, prompt in zip(CHOSEN, PROMPTS[: len(CHOSEN)], strict=True):
        model = tiny_llama if index is None else adapters[index][1]
        (answer,) = worker.call("reference_greedy", folder=model, dtype="float32", prompts=[prompt], count=COUNT)
        found.append(answer["token_ids"])
    return found


def test_each_request_has_its_own_adapter(
    worker: Worker, tiny_llama: str, chosen: list[str | None], expected: list[list[int]]
) -> None:
    assert answers(worker, tiny_llama, chosen) == expected
    plain = answers(worker, tiny_llama, [None] * len(chosen))
    assert [ours != base for ours, base, adapter in zip(expected, plain, chosen, strict=True) if adapter] == [True] * 4


@pytest.mark.parametrize("process", [{"ASCEND_PATCH_KERNELS": "0"}], indirect=True, ids=["references"])
def test_without_kernels_their_references_give_the_same(
    process: Worker, tiny_llama: str, chosen: list[str | None], expected: list[list[int]]
) -> None:
    assert answers(process, tiny_llama, chosen) == expected


@pytest.mark.parametrize("process", [{"VLLM_ASCEND_PATCH_DISABLE": "lora.punica"}], indirect=True, ids=["off"])
def test_without_the_patch_adapters_are_refused_with_the_remedy(
    process: Worker, tiny_llama: str, chosen: list[str | None]
) -> None:
    with pytest.raises(WorkerError, match=r"ascend-patch enable lora\.punica"):
        answers(process, tiny_llama, chosen)
