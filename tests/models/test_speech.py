"""A model that hears: sounds through encoder and cross attention against transformers on the CPU, token for token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import skip_before
from tests.end_to_end.worker import Worker, WorkerError
from tests.models.hearing import LAYERS, START
from tests.models.ties import equal_up_to_ties

pytestmark = pytest.mark.shows("speech (Whisper)")

COUNT = 12
# Far above float32 rounding (logits reach about 10), so that a different token is a different computation.
CLEAR_MARGIN = 2e-3
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
NAME = "whisper"
# Words of different number; the first and the last differ in the sound alone.
PROMPTS = [
    {"text": f"{START} t5 t7", "sound": 1},
    {"text": f"{START} t15 t17 t3 t9 t10 t11", "sound": 2},
    {"text": START, "sound": 3},
    {"text": f"{START} t21 t22 t23", "sound": 4},
    {"text": f"{START} t5 t7", "sound": 5},
]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process with the overlay; its end is part of the test."""
    process = Worker(tmp_path_factory.mktemp("hearing") / "worker.log")
    yield process
    code = process.close()
    assert code == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process for transformers alone."""
    process = Worker(tmp_path_factory.mktemp("reference") / "worker.log")
    yield process
    assert process.close() == 0, process.log_tail()


@pytest.fixture(scope="module")
def folder(reference: Worker, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("models") / NAME)
    reference.call("make_hearing", folder=path)
    return path


@pytest.fixture(scope="module")
def expected(reference: Worker, folder: str) -> list[dict[str, Any]]:
    """transformers' answers in float32, from the whole text and the whole sound for each token."""
    arguments = {"folder": folder, "dtype": "float32", "prompts": PROMPTS, "count": COUNT}
    answers: list[dict[str, Any]] = reference.call("reference_look", **arguments)
    assert min(first[1] - second[1] for answer in answers for first, second in answer["best"]) > CLEAR_MARGIN
    # Where the sound made no difference, an encoder that is computed wrongly would not show.
    assert answers[0]["token_ids"] != answers[-1]["token_ids"]
    return answers


@pytest.fixture
def engine(worker: Worker, folder: str) -> Iterator[Callable[..., None]]:
    """Load the model with options, for one test; one that skips itself loads none."""
    loaded = []

    def load(**options: Any) -> None:
        worker.call("load_hearing", name=NAME, model=folder, mm_processor_cache_gb=0, **options)
        loaded.append(NAME)

    yield load
    for name in loaded:
        worker.call("unload", name=name)


def answers(worker: Worker, prompts: list[dict[str, Any]] = PROMPTS, count: int = COUNT) -> list[list[int]]:
    found = worker.call("look", name=NAME, prompts=prompts, params={**GREEDY, "max_tokens": count})
    return [answer["token_ids"] for answer in found]


@pytest.mark.parametrize("requests", [8, 2], ids=["all at once", "two at a time"])
def test_float32_tokens_equal_transformers(
    requests: int, engine: Callable[..., None], worker: Worker, expected: list[dict[str, Any]]
) -> None:
    """Two at a time, requests begin (and are encoded) in steps in which others go on from their caches."""
    engine(dtype="float32", max_num_seqs=requests)
    assert answers(worker) == [answer["token_ids"] for answer in expected]


def test_requests_that_start_again(engine: Callable[..., None], worker: Worker, expected: list[dict[str, Any]]) -> None:
    """Eighteen blocks (one more is vLLM's own) for five requests that come to need four each."""
    skip_before("0.14.0", "blocks for as many tokens as were encoded (it miscounts them when one starts again)")
    engine(dtype="float32", num_gpu_blocks_override=19, max_model_len=256)
    params = {**GREEDY, "max_tokens": 140}
    seen = worker.call("traced_look", name=NAME, prompts=PROMPTS, params=params)
    assert seen["aten"]["convolution"] == 2 * (len(PROMPTS) + 1)  # twice for each sound that is encoded
    long = answers(worker, count=140)
    assert [tokens[:COUNT] for tokens in long] == [answer["token_ids"] for answer in expected]
    assert long == [answers(worker, [prompt], count=140)[0] for prompt in PROMPTS]


def test_bfloat16_with_the_npu_operators(
    engine: Callable[..., None], worker: Worker, reference: Worker, folder: str
) -> None:
    """Tokens up to ties; one operator per attention, and none for an encoder that has spoken."""
    engine(dtype="bfloat16")
    arguments = {"folder": folder, "dtype": "bfloat16", "prompts": PROMPTS, "count": COUNT}
    theirs = reference.call("reference_look", **arguments)
    for prompt, one, other in zip(PROMPTS, answers(worker), theirs, strict=True):
        assert equal_up_to_ties(reference, folder, prompt, one, other["token_ids"])
    seen = worker.call("traced_look", name=NAME, prompts=PROMPTS[:1], params={**GREEDY, "max_tokens": 4})
    assert seen["aclnn"]["aclnnFlashAttentionVarLenScore"] == LAYERS
    paged = sum(calls for operator, calls in seen["aclnn"].items() if "FusedInferAttention" in operator)
    assert paged == 4 * 2 * LAYERS
    # Two of vLLM's model runner and one of Whisper's positions in each step: slots are found without this wait.
    assert seen["aten"]["index.Tensor"] <= 3 * 4


def test_without_the_patch_speech_is_refused(folder: str, tmp_path: Path) -> None:
    process = Worker(tmp_path / "off.log", VLLM_ASCEND_PATCH_DISABLE="attention.cross")
    try:
        with pytest.raises(WorkerError, match=r"needs the patch attention\.cross; it is not in force"):
            process.call("load_hearing", name=NAME, model=folder, mm_processor_cache_gb=0, dtype="float32")
    finally:
        process.close()
