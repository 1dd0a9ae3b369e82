"""Embeddings, classes, scores and rewards in float32 against transformers: encoders and decoders of many families."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import mul
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import skip_before
from tests.end_to_end.server import serve
from tests.end_to_end.worker import Worker, WorkerError
from tests.models.encoders import HALF_WINDOW, minilm
from tests.models.families import LONGEST, prompts

pytestmark = pytest.mark.shows("embeddings, classes, scores, rewards")

ALIKE = 0.9999
OPTIONS: dict[str, Any] = {"runner": "pooling", "dtype": "float32"}
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "An NPU is not a GPU.",
    "hello",
    "A sentence with clauses, commas and so on, which goes on and on until the very end of it. " * 4,
]
PAIRS = [("what is an npu", "An NPU is not a GPU."), ("what is an npu", "The dog sleeps."), ("hello", TEXTS[3])]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    def product(left: Sequence[float], right: Sequence[float]) -> float:
        return sum(map(mul, left, right))

    return product(one, other) / math.sqrt(product(one, one) * product(other, other))


def softmax(logits: Sequence[float]) -> list[float]:
    weights = [math.exp(value - max(logits)) for value in logits]
    return [weight / sum(weights) for weight in weights]


@pytest.fixture
def folder_of(reference: Worker, tmp_path: Path) -> Callable[[str], str]:
    """Makes a small model."""

    def folder(encoder: str) -> str:
        path = str(tmp_path / encoder)
        reference.call("make_encoder", encoder=encoder, folder=path)
        return path

    return folder


@pytest.fixture
def load(worker: Worker) -> Iterator[Callable[..., None]]:
    """Loads a model for pooling under the name 'pooling', which is given up afterwards."""
    loaded: list[Any] = []
    yield lambda model, **options: loaded.append(
        worker.call("load", name="pooling", model=model, **{**OPTIONS, **options})
    )
    if loaded:
        worker.call("unload", name="pooling")


@pytest.mark.parametrize(
    ("encoder", "place"), [("bert", 0), ("roberta", 0), ("modernbert", 0), ("qwen3-embedding", -1)]
)
def test_embeddings_are_those_of_transformers(
    encoder: str,
    place: int,
    worker: Worker,
    reference: Worker,
    load: Callable[..., None],
    folder_of: Callable[[str], str],
) -> None:
    """All in one batch; transformers takes them one by one. vLLM pools the first token's state, or the last's."""
    if encoder == "modernbert":
        skip_before("0.24.0", "ModernBERT's window as wide as transformers' (one token less to either side before)")
    model = folder_of(encoder)
    expected = reference.call("reference_hidden_states", folder=model, prompts=prompts())
    load(model)
    found = worker.call("pool", name="pooling", prompts=prompts(), task="embed")
    assert [cosine(ours, states[place]) >= ALIKE for ours, states in zip(found, expected, strict=True)] == [True] * 4
    # Embeddings of different prompts must differ for that to say anything.
    assert max(cosine(found[0], other) for other in found[1:]) < 1 - 10 * (1 - ALIKE)


def test_the_window_matters_to_the_reference(reference: Worker, folder_of: Callable[[str], str]) -> None:
    """Where it did not, a missing or wrong one would not show."""
    model = folder_of("modernbert")
    long = [prompt for prompt in prompts() if len(prompt) > 2 * HALF_WINDOW]
    near = reference.call("reference_hidden_states", folder=model, prompts=long)
    all_ = reference.call("reference_hidden_states", folder=model, prompts=long, local_attention=2 * LONGEST)
    assert len(long) == 3
    assert all(cosine(one[0], other[0]) < ALIKE for one, other in zip(near, all_, strict=True))


@pytest.mark.parametrize("classifier", ["bert-classes", "llama-classes"])
def test_classes_are_those_of_transformers(
    classifier: str, worker: Worker, reference: Worker, load: Callable[..., None], folder_of: Callable[[str], str]
) -> None:
    model = folder_of(classifier)
    logits = reference.call("reference_class_logits", folder=model, prompts=prompts())
    load(model)
    found = worker.call("pool", name="pooling", prompts=prompts(), task="classify")
    for ours, theirs in zip(found, logits, strict=True):
        assert ours == pytest.approx(softmax(theirs), abs=1e-5)
    assert len({tuple(round(value, 2) for value in row) for row in found}) > 1


def test_a_reward_for_the_whole_answer(
    worker: Worker, reference: Worker, load: Callable[..., None], folder_of: Callable[[str], str]
) -> None:
    """The one logit as it is, which need not lie between 0 and 1."""
    model = folder_of("llama-reward")
    expected = reference.call("reference_class_logits", folder=model, prompts=prompts())
    load(model)
    found = worker.call("pool", name="pooling", prompts=prompts(), task="classify", use_activation=False)
    assert [row[0] for row in found] == pytest.approx([row[0] for row in expected], abs=1e-4)
    assert max(abs(row[0]) for row in expected) > 1


def test_a_reward_for_each_token(
    worker: Worker, reference: Worker, load: Callable[..., None], folder_of: Callable[[str], str]
) -> None:
    model = folder_of("qwen2-reward")
    expected = reference.call("reference_rewards", folder=model, prompts=prompts())
    load(model)
    found = worker.call("pool", name="pooling", prompts=prompts(), task="token_classify", use_activation=False)
    assert [len(rows) for rows in found] == [len(prompt) for prompt in prompts()]
    for ours, theirs in zip(found, expected, strict=True):
        assert [row[0] for row in ours] == pytest.approx([row[0] for row in theirs], abs=1e-4)
    assert max(abs(row[0]) for row in expected[0]) > 0.1


def test_a_reward_for_each_step(
    worker: Worker, reference: Worker, load: Callable[..., None], folder_of: Callable[[str], str]
) -> None:
    """A process reward model says behind each token that ends a step how likely the step is right."""
    model, end = folder_of("qwen2-process-reward"), 7
    steps = [[3, 4, end, 5, 6, 8, end], [9, end], [10, 11, 12, 13, end, 14, end, 15, end]]
    expected = reference.call("reference_rewards", folder=model, prompts=steps)
    load(model, pooler_config={"step_tag_id": end, "returned_token_ids": [0, 1]})
    found = worker.call("pool", name="pooling", prompts=steps, task="token_classify", use_activation=True)
    for prompt, ours, theirs in zip(steps, found, expected, strict=True):
        wanted = [softmax(row) for token, row in zip(prompt, theirs, strict=True) if token == end]
        assert len(ours) == prompt.count(end)
        for one, other in zip(ours, wanted, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_pairs_score_as_in_transformers(
    worker: Worker, reference: Worker, load: Callable[..., None], folder_of: Callable[[str], str]
) -> None:
    """A cross-encoder reads both texts at once; its score is the sigmoid of its one logit."""
    model = folder_of("bert-pairs")
    logits = [row[0] for row in reference.call("reference_class_logits", folder=model, prompts=PAIRS)]
    load(model)
    found = worker.call("score", name="pooling", pairs=PAIRS)
    assert found == pytest.approx([1 / (1 + math.exp(-logit)) for logit in logits], abs=1e-5)
    assert max(found) - min(found) > 0.01


@pytest.fixture(scope="module")
def sentences(reference: Worker) -> list[list[float]]:
    """all-MiniLM-L6-v2's embedding of each text: the mean over its tokens, by transformers."""
    embeddings: list[list[float]] = reference.call("reference_sentences", folder=str(minilm()), texts=TEXTS)
    return embeddings


@pytest.mark.parametrize(("dtype", "alike"), [("float32", ALIKE), ("float16", 0.999)])
def test_minilm_with_its_real_weights(
    dtype: str, alike: float, worker: Worker, sentences: list[list[float]], load: Callable[..., None]
) -> None:
    load(str(minilm()), max_model_len=256, dtype=dtype)
    found = worker.call("pool", name="pooling", prompts=TEXTS, task="embed")
    assert [cosine(ours, theirs) >= alike for ours, theirs in zip(found, sentences, strict=True)] == [True] * 4
    scores = worker.call("score", name="pooling", pairs=[(TEXTS[0], text) for text in TEXTS[1:]])
    assert scores == pytest.approx([cosine(sentences[0], other) for other in sentences[1:]], abs=1e-3)


def test_the_server_embeds_and_scores(sentences: list[list[float]], tmp_path: Path) -> None:
    options = ["--runner", "pooling", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    log = tmp_path / "server.log"
    with serve(minilm(), log, *options, "--gpu-memory-utilization", "0.05", "--served-model-name", "minilm") as server:
        answer = server.post("/v1/embeddings", {"model": "minilm", "input": TEXTS})
        found = [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
        assert [cosine(ours, theirs) >= ALIKE for ours, theirs in zip(found, sentences, strict=True)] == [True] * 4
        asked = {"model": "minilm", "text_1": TEXTS[0], "text_2": TEXTS[1:]}
        scores = [item["score"] for item in server.post("/score", asked)["data"]]
        assert scores == pytest.approx([cosine(sentences[0], other) for other in sentences[1:]], abs=1e-3)


def test_without_the_patch_encoders_are_refused(tmp_path: Path, folder_of: Callable[[str], str]) -> None:
    process = Worker(tmp_path / "off.log", VLLM_ASCEND_PATCH_DISABLE="attention.encoder_only")
    try:
        with pytest.raises(WorkerError, match=r"needs the patch attention\.encoder_only; it is not in force"):
            process.call("load", name="pooling", model=folder_of("bert"), **OPTIONS)
    finally:
        process.close()
