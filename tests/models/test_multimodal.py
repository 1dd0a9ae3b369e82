"""Models that see: images and videos in prompts against transformers on the CPU, greedy, token for token."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm
from tests.end_to_end.worker import Worker, WorkerError
from tests.models.no_torchvision import python_path
from tests.models.seeing import SEEING
from tests.models.ties import equal_up_to_ties

pytestmark = pytest.mark.shows("images and videos in prompts")

COUNT = 8
# Far above float32 rounding (logits reach about 10), so that a different token is a different computation.
CLEAR_MARGIN = 2e-3
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
PATCHES = ("attention.vision", "ops.mrope", "ops.vision_rotary")
# Layers of the tower whose output is used: LLaVA takes that of the last but one.
TOWER_LAYERS = 3
NAMES = list(SEEING)


def prompts(name: str) -> list[dict[str, Any]]:
    """One image; two of other sizes; none; and the first with another image of the same size. Videos: see `moving`."""
    mark = "<image>" if name == "llava" else "<|vision_start|> <|image_pad|> <|vision_end|>"
    return [
        {"text": f"t5 t7 {mark} t9 t10", "images": [[150, 90, 1]]},
        {"text": f"t15 {mark} t17 t3 {mark} t9 t10 t11", "images": [[60, 130, 2], [200, 200, 3]]},
        {"text": "t1 t2 t3 t4 t5", "images": []},
        {"text": f"t5 t7 {mark} t9 t10", "images": [[150, 90, 4]]},
        *moving(name),
    ]


def moving(name: str) -> list[dict[str, Any]]:
    """A video; the same ones, of half the speed; another one; and two, one with an odd frame, around an image."""
    if name == "llava":
        return []
    still, mark = ("<|vision_start|> <|image_pad|> <|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>")
    side = 2 * SEEING[name][2]["patch_size"]
    wide, high = 6 * side, 5 * side
    one = {"text": f"t5 t7 {mark} t9 t10", "images": []}
    return [
        {**one, "videos": [[wide, high, 6, 2.0, 1]]},
        {**one, "videos": [[wide, high, 6, 1.0, 1]]},
        {**one, "videos": [[wide, high, 6, 2.0, 2]]},
        {
            "text": f"t15 {mark} t17 {still} t3 {mark} t11",
            "images": [[60, 130, 2]],
            "videos": [[2 * side, 3 * side, 5, 2.0, 3], [4 * side, 2 * side, 4, 4.0, 4]],
        },
    ]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process needs to import the models."""
    names = python_path(tmp_path_factory.mktemp("no-torchvision"))
    return {"PYTHONPATH": os.pathsep.join(filter(None, (names, os.environ.get("PYTHONPATH", ""))))}


@pytest.fixture(scope="module")
def worker(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process with the overlay; its end is part of the test."""
    process = Worker(tmp_path_factory.mktemp("seeing") / "worker.log", **environment)
    yield process
    code = process.close()
    assert code == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(scope="module")
def reference(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process for transformers alone."""
    process = Worker(tmp_path_factory.mktemp("reference") / "worker.log", **environment)
    yield process
    assert process.close() == 0, process.log_tail()


@pytest.fixture(scope="module")
def folder_of(reference: Worker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The saved model of a name, made on first use."""
    base = tmp_path_factory.mktemp("models")

    def folder(name: str) -> str:
        path: Path = base / name
        if not path.exists():
            reference.call("make_seeing", name=name, folder=str(path))
        return str(path)

    return folder


@pytest.fixture(scope="module")
def expected(reference: Worker, folder_of: Callable[[str], str]) -> Callable[[str, str], list[dict[str, Any]]]:
    """transformers' answers to all prompts, asked for once."""
    answers: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def ask(name: str, dtype: str) -> list[dict[str, Any]]:
        if (name, dtype) not in answers:
            arguments = {"folder": folder_of(name), "dtype": dtype, "prompts": prompts(name), "count": COUNT}
            answers[name, dtype] = reference.call("reference_look", **arguments)
        return answers[name, dtype]

    return ask


def load(process: Worker, name: str, folder: str, **options: Any) -> None:
    """Without the cache of processed images, which would skip the towers, and with room for two of a kind."""
    limit = {"image": 2} if name == "llava" else {"image": 2, "video": 2}
    settings = {"limit_mm_per_prompt": limit, "mm_processor_cache_gb": 0, "max_num_batched_tokens": 512, **options}
    process.call("load_seeing", name=name, model=folder, **settings)


@pytest.fixture
def engine(worker: Worker, folder_of: Callable[[str], str]) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Run all prompts, in one batch, on a model in a dtype."""
    loaded = []

    def run(name: str, dtype: str, **options: Any) -> list[dict[str, Any]]:
        load(worker, name, folder_of(name), dtype=dtype, **options)
        loaded.append(name)
        answers: list[dict[str, Any]] = worker.call("look", name=name, prompts=prompts(name), params=GREEDY)
        return answers

    yield run
    for name in loaded:
        worker.call("unload", name=name)


def tokens(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["token_ids"] for answer in answers]


@pytest.mark.parametrize("name", NAMES)
def test_float32_tokens_equal_transformers(name: str, engine: Any, expected: Any) -> None:
    theirs = expected(name, "float32")
    assert min(first[1] - second[1] for answer in theirs for first, second in answer["best"]) > CLEAR_MARGIN
    # Where the image made no difference, a tower that is computed wrongly would not show.
    assert theirs[0]["token_ids"] != theirs[3]["token_ids"]
    # And so it would be where times are not in the positions (Qwen2.5-VL) or in the prompt (Qwen3-VL).
    # Qwen2.5-VL's processor had the speed from an option before transformers 5, and vLLM does not tell it before 0.31.
    videos = [(*answer["prompt_token_ids"], *answer["token_ids"]) for answer in theirs[4:7]]
    told = Version(version("transformers")) >= Version("5") and Version(installed_vllm()) >= Version("0.31")
    same = name == "qwen2.5-vl" and not told
    assert len(set(videos)) == len(videos) - same
    ours = engine(name, "float32")
    assert [answer["prompt_token_ids"] for answer in ours] == [answer["prompt_token_ids"] for answer in theirs]
    assert tokens(ours) == tokens(theirs)


def traced(process: Worker, name: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """What the device saw while one prompt was answered with one token."""
    seen: dict[str, Any] = process.call("traced_look", name=name, prompts=[prompt], params={**GREEDY, "max_tokens": 1})
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_with_the_npu_operators(
    name: str, engine: Any, expected: Any, worker: Worker, reference: Worker, folder_of: Callable[[str], str]
) -> None:
    """Tokens up to ties; one attention and at most one rotation per layer of the tower, and no wait for its lengths."""
    theirs = expected(name, "bfloat16")
    for prompt, one, other in zip(prompts(name), engine(name, "bfloat16"), theirs, strict=True):
        assert equal_up_to_ties(reference, folder_of(name), prompt, one["token_ids"], other["token_ids"])
    with_image, text = {**prompts(name)[0], "images": [[150, 90, 5]]}, {"text": "t8 t1 t6 t2", "images": []}
    image, words = (traced(worker, name, prompt) for prompt in (with_image, text))
    calls = {operator: image["aclnn"].get(operator, 0) - words["aclnn"].get(operator, 0) for operator in image["aclnn"]}
    assert calls["aclnnFlashAttentionVarLenScore"] == TOWER_LAYERS
    assert calls.get("aclnnRotaryPositionEmbedding", 0) == (0 if name == "llava" else TOWER_LAYERS)
    assert image["aclnn"]["aclnnRopeWithSinCosCacheV2"] == 2
    # Lengths come from the host's copy; before 0.17 each of the two lists of Qwen2.5-VL is fetched once.
    fetched = image["copy"]["device_to_host"] - words["copy"]["device_to_host"]
    assert fetched <= (0 if Version(installed_vllm()) >= Version("0.23") else 2)


def test_an_image_that_takes_several_steps(engine: Any, expected: Any) -> None:
    """A step takes at most 32 tokens: images are cut, and prefill and decode meet in one batch."""
    ours = engine("qwen2.5-vl", "float32", max_num_batched_tokens=32, enable_chunked_prefill=True)
    assert tokens(ours) == tokens(expected("qwen2.5-vl", "float32"))


def test_a_backend_for_cuda_is_refused(worker: Worker, folder_of: Callable[[str], str]) -> None:
    with pytest.raises(WorkerError, match="FLASH_ATTN needs CUDA; on an NPU leave --mm-encoder-attn-backend out"):
        load(worker, "qwen2.5-vl", folder_of("qwen2.5-vl"), dtype="float32", mm_encoder_attn_backend="FLASH_ATTN")


def test_without_the_patches_pytorch_computes_the_same(
    environment: dict[str, str], expected: Any, folder_of: Callable[[str], str], tmp_path: Path
) -> None:
    """They are what brings the operators, and nothing else does."""
    name = "qwen2.5-vl"
    process = Worker(tmp_path / "off.log", VLLM_ASCEND_PATCH_DISABLE=",".join(PATCHES), **environment)
    try:
        load(process, name, folder_of(name), dtype="bfloat16")
        seen = traced(process, name, prompts(name)[0])
        process.call("unload", name=name)
        load(process, name, folder_of(name), dtype="float32")
        found = process.call("look", name=name, prompts=prompts(name), params=GREEDY)
    finally:
        process.close()
    absent = {"aclnnFlashAttentionVarLenScore", "aclnnRotaryPositionEmbedding", "aclnnRopeWithSinCosCacheV2"}
    assert not absent & set(seen["aclnn"])
    assert tokens(found) == tokens(expected(name, "float32"))
