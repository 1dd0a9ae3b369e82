"""Weights of 16-bit models in FRACTAL_NZ: the same tokens, with sleep, reloading and adapters beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm, skip_before
from tests.end_to_end.worker import Worker, WorkerError
from tests.models.families import prompts

pytestmark = [pytest.mark.engine_process, pytest.mark.shows("weights in FRACTAL_NZ (off by default)")]
PATCH = "worker.weight_format"
GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, "detokenize": False}
LAYERS = 2
RELOADS = "0.16.0"
NZ = 29


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Worker]:
    process = Worker(tmp_path / "worker.log", VLLM_ASCEND_PATCH_ENABLE=PATCH)
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


def tokens(process: Worker, name: str) -> list[list[int]]:
    return [answer["token_ids"] for answer in process.call("generate", name=name, prompts=prompts(), params=GREEDY)]


@pytest.mark.parametrize(
    ("family", "dtype", "operators"),
    [
        ("llama", "bfloat16", {"aclnnMatmulWeightNz": 4 * LAYERS}),
        # Queries, keys and values have a bias.
        ("qwen2", "float16", {"aclnnMatmulWeightNz": 3 * LAYERS, "aclnnAddmmWeightNz": LAYERS}),
    ],
)
def test_tokens_are_those_of_plain_weights(
    family: str, dtype: str, operators: dict[str, int], process: Worker, worker: Worker, tmp_path: Path
) -> None:
    """Every linear layer is cast, embeddings and head are not, and the option is back where it was."""
    folder = str(tmp_path / family)
    worker.call("make_family", family=family, folder=folder)
    options = {"model": folder, "dtype": dtype, "skip_tokenizer_init": True}
    worker.call("load", name=folder, **options)
    expected = tokens(worker, folder)
    assert set(worker.call("weight_formats", name=folder).values()) == {2}
    worker.call("unload", name=folder)

    process.call("load", name="nz", **options)
    formats = process.call("weight_formats", name="nz")
    cast = sorted(name for name, number in formats.items() if number == NZ)
    assert len(cast) == 4 * LAYERS and all("proj" in name for name in cast)
    assert len(formats) > len(cast)
    assert tokens(process, "nz") == expected
    one = {"name": "nz", "prompts": [[5, 6, 7, 8]]}
    short, long = (process.call("traced_counts", **one, params={**GREEDY, "max_tokens": count}) for count in (2, 6))
    steps = {name: (long["aclnn"][name] - short["aclnn"][name]) / 4 for name in operators}
    assert steps == operators
    assert process.call("private_formats_allowed") is False
    process.call("unload", name="nz")


def test_sleep_and_new_weights(process: Worker, tiny_llama: str) -> None:
    """Tiles sleep and come back; writing into parts of them is refused, and so is a reload that would do that."""
    options = {"model": tiny_llama, "dtype": "bfloat16", "skip_tokenizer_init": True, "enable_sleep_mode": True}
    process.call("load", name="nz", **options)
    expected, formats = tokens(process, "nz"), process.call("weight_formats", name="nz")
    assert list(formats.values()).count(NZ) == 4 * LAYERS
    process.call("sleep", name="nz", level=1)
    process.call("wake_up", name="nz")
    assert tokens(process, "nz") == expected
    if Version(installed_vllm()) < Version(RELOADS):
        with pytest.raises(WorkerError, match=r"cannot reload the weights in FRACTAL_NZ .*, and nothing was changed"):
            process.call("reload_weights", name="nz")
        assert tokens(process, "nz") == expected
    with pytest.raises(
        WorkerError, match=r"cannot be written into a matrix in FRACTAL_NZ .*reload_weights \(vLLM 0\.16 and newer\)"
    ):
        process.call("replace_weights", name="nz", folder=tiny_llama)
    process.call("unload", name="nz")


def test_reload_after_a_deep_sleep(process: Worker, tiny_llama: str) -> None:
    """It fills new tiles at the old place."""
    skip_before(RELOADS, "a reload that knows of layers in other formats")
    options = {"model": tiny_llama, "dtype": "bfloat16", "skip_tokenizer_init": True, "enable_sleep_mode": True}
    process.call("load", name="nz", **options)
    expected, formats = tokens(process, "nz"), process.call("weight_formats", name="nz")
    addresses = process.call("weight_addresses", name="nz")
    process.call("sleep", name="nz", level=2)
    process.call("wake_up", name="nz", tags=["weights"])
    process.call("reload_weights", name="nz")
    process.call("wake_up", name="nz", tags=["kv_cache"])
    assert tokens(process, "nz") == expected
    assert process.call("weight_formats", name="nz") == formats
    assert process.call("weight_addresses", name="nz") == addresses
    process.call("unload", name="nz")


def test_adapters_beside_it(process: Worker, worker: Worker, tiny_llama: str, tmp_path: Path) -> None:
    """What an adapter adds goes on top of a product with tiles: the same tokens as on top of plain weights."""
    adapter = str(tmp_path / "adapter")
    worker.call("make_adapter", model=tiny_llama, folder=adapter, merged=str(tmp_path / "merged"), seed=1)
    chosen: list[Any] = [None, adapter, None, adapter]
    options = {"model": tiny_llama, "dtype": "bfloat16", "skip_tokenizer_init": True, "enable_lora": True}
    found = []
    for engine in (worker, process):
        engine.call("load", name="lora", max_lora_rank=8, **options)
        request = {"prompts": prompts()[: len(chosen)], "params": GREEDY, "adapters": chosen}
        found.append(engine.call("generate_with_adapters", name="lora", **request))
        formats = engine.call("weight_formats", name="lora")
        assert list(formats.values()).count(NZ) == (4 * LAYERS if engine is process else 0)
        engine.call("unload", name="lora")
    assert found[0] == found[1]
