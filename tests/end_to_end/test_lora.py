"""LoRA adapters in one batch, against models with the adapter merged into their weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import serve
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


def answers(process: Worker, model: str, chosen: list[str | None], rank: int = 8, **more: Any) -> list[list[int]]:
    options: dict[str, Any] = {"dtype": "float32", "skip_tokenizer_init": True, "enable_lora": True, "max_loras": 2}
    process.call("load", name="lora", model=model, max_lora_rank=rank, **{**options, **more})
    found: list[list[int]] = process.call(
        "generate_with_adapters", name="lora", prompts=PROMPTS[: len(chosen)], params=GREEDY, adapters=chosen
    )
    process.call("unload", name="lora")
    return found


CHOSEN = [0, None, 1, 0, 1, None]


@pytest.fixture(scope="module")
def chosen(adapters: list[tuple[str, str]]) -> list[str | None]:
    return [None if index is None else adapters[index][0] for index in CHOSEN]


def merged_answers(
    worker: Worker, model: str, adapters: list[tuple[str, str]], indices: list[int | None]
) -> list[list[int]]:
    """What transformers answers to the first prompts with the weights of `adapters` merged in, or with none."""
    found = []
    for index, prompt in zip(indices, PROMPTS[: len(indices)], strict=True):
        folder = model if index is None else adapters[index][1]
        (answer,) = worker.call("reference_greedy", folder=folder, dtype="float32", prompts=[prompt], count=COUNT)
        found.append(answer["token_ids"])
    return found


@pytest.fixture(scope="module")
def expected(worker: Worker, tiny_llama: str, adapters: list[tuple[str, str]]) -> list[list[int]]:
    return merged_answers(worker, tiny_llama, adapters, CHOSEN)


def test_each_request_has_its_own_adapter(
    worker: Worker, tiny_llama: str, chosen: list[str | None], expected: list[list[int]]
) -> None:
    assert answers(worker, tiny_llama, chosen) == expected
    plain = answers(worker, tiny_llama, [None] * len(chosen))
    assert [ours != base for ours, base, adapter in zip(expected, plain, chosen, strict=True) if adapter] == [True] * 4


@pytest.mark.parametrize(
    ("ranks", "words"), [((8, 128), False), ((16, 64), True)], ids=["8 and 128", "embedding and head"]
)
def test_adapters_of_other_forms(
    ranks: tuple[int, ...], words: bool, worker: Worker, tiny_llama: str, tmp_path: Path
) -> None:
    """Ranks that differ inside a batch; and adapters of the embedding and the head besides the projections."""
    made = [(str(tmp_path / f"adapter-{rank}"), str(tmp_path / f"merged-{rank}")) for rank in ranks]
    for rank, (adapter, merged) in zip(ranks, made, strict=True):
        worker.call("make_adapter", model=tiny_llama, folder=adapter, merged=merged, seed=rank, rank=rank, words=words)
    folders = [None if index is None else made[index][0] for index in CHOSEN]
    assert answers(worker, tiny_llama, folders, rank=max(ranks)) == merged_answers(worker, tiny_llama, made, CHOSEN)


def test_a_server_loads_and_unloads_adapters(
    worker: Worker, tiny_llama: str, adapters: list[tuple[str, str]], expected: list[list[int]], tmp_path: Path
) -> None:
    """Through its interface, while it runs; an adapter that it has given up is one that it does not know."""
    folder = str(tmp_path / "model")
    shutil.copytree(tiny_llama, folder)
    worker.call("add_tokenizer_of_words", folder=folder)
    options = ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager", "--gpu-memory-utilization", "0.05"]
    lora = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "8", "--served-model-name", "base"]
    with serve(folder, tmp_path / "log", *options, *lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING="True") as server:

        def answer(model: str, prompt: list[int]) -> str:
            asked = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "skip_special_tokens": False}
            text: str = server.post("/v1/completions", {"model": model, "prompt": prompt, **asked})["choices"][0][
                "text"
            ]
            return text.strip()

        words = [worker.call("in_words", tokens=tokens) for tokens in expected]
        names = ["base" if index is None else f"adapter-{index}" for index in CHOSEN]
        for index, (adapter, _) in enumerate(adapters):
            server.post("/v1/load_lora_adapter", {"lora_name": f"adapter-{index}", "lora_path": adapter})
        assert [answer(name, prompt) for name, prompt in zip(names, PROMPTS, strict=False)] == words
        server.post("/v1/unload_lora_adapter", {"lora_name": "adapter-1"})
        with pytest.raises(AssertionError, match=r"adapter-1.*does not exist"):
            answer("adapter-1", PROMPTS[0])
        assert answer("adapter-0", PROMPTS[0]) == words[0]


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
