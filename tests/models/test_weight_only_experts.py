"""Experts whose weights alone are quantized, against transformers with the weights that were meant."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.worker import Worker, WorkerError
from tests.models import ties
from tests.models.families import prompts
from tests.models.packed import SCHEMES as PACKED

pytestmark = pytest.mark.shows("quantized weights of experts: W4A16, W8A16")
COUNT = 8
JITTERS = 4
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
# compressed-tensors, GPTQ's and AWQ's formats; scales per group and per column, with zero points and without. Of each
# one layer is compared closer, and without a router that may choose otherwise, in tests/patches.
CASES = [
    ("qwen3-moe", "w4-group", "bfloat16"),
    ("qwen3-moe", "w4-channel", "float16"),
    ("olmoe", "w4-group", "bfloat16"),
    ("glm4-moe", "w8-channel-shifted", "bfloat16"),
    ("qwen3-moe", "gptq-w4-g32", "float16"),
    ("qwen3-moe", "gptq-w4-g32-shifted", "bfloat16"),
    ("qwen3-moe", "gptq-w8-column-shifted", "bfloat16"),
    ("qwen3-moe", "awq-g32", "bfloat16"),
    ("glm4-moe", "awq-g32", "bfloat16"),
    ("qwen3-moe", "awq-column", "float16"),
]


@pytest.fixture(scope="module")
def checkpoint(
    reference: Worker, family_folder: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], str]:
    """The checkpoint of a family in a scheme, made on first use."""
    base = tmp_path_factory.mktemp("experts")

    def folder(family: str, scheme: str) -> str:
        path: Path = base / f"{family}-{scheme}"
        if not path.exists():
            make = "make_packed" if scheme in PACKED else "make_quantised"
            reference.call(make, source=family_folder(family), folder=str(path), scheme=scheme)
        return str(path)

    return folder


def meant(reference: Worker, folder: str, dtype: str) -> Any:
    return reference.call("reference_greedy", folder=folder, dtype=dtype, prompts=prompts(), count=COUNT)


@pytest.mark.parametrize(("family", "scheme", "dtype"), CASES)
def test_tokens_equal_those_of_the_weights_that_were_meant(
    family: str, scheme: str, dtype: str, engine: Callable[..., str], worker: Worker, reference: Worker,
    checkpoint: Callable[[str, str], str], record_property: Any,
) -> None:  # fmt: skip
    folder = checkpoint(family, scheme)
    name = engine(folder, dtype=dtype)
    got = worker.call("generate", name=name, prompts=prompts(), params=GREEDY)
    routers = partial(worker.call, "routers_of", name=name)
    found = ties.check(
        reference, folder, prompts(), got, meant(reference, folder, dtype), dtype=dtype, jitters=JITTERS,
        routers=lambda tokens: routers(tokens=tokens),
    )  # fmt: skip
    for difference in found:
        record_property("tie", difference._asdict())
    record_property("equal_answers", len(got) - len(found))


@pytest.mark.parametrize(
    ("scheme", "dtype", "products"),
    [("w4-group", "bfloat16", 2), ("gptq-w4-g32", "float16", 2), ("awq-g32", "bfloat16", 4)],
)
def test_a_layer_of_experts_is_two_products(
    scheme: str, dtype: str, products: int, engine: Callable[..., str], worker: Worker,
    checkpoint: Callable[[str, str], str],
) -> None:  # fmt: skip
    """Per step and layer, as the device saw them; zero points of groups are two more."""
    asked = {"name": engine(checkpoint("qwen3-moe", scheme), dtype=dtype), "prompts": [[5, 6, 7, 8], [9, 10, 11]]}
    short, long = (worker.call("traced_counts", **asked, params={**GREEDY, "max_tokens": count}) for count in (2, 6))
    calls = {name: count - short["aclnn"].get(name, 0) for name, count in long["aclnn"].items()}
    assert sum(count for name, count in calls.items() if name.startswith("aclnnGroupedMatmul")) == 4 * 2 * products


@pytest.mark.engine_process
@pytest.mark.parametrize(("scheme", "experts"), [("w4-channel", False), ("awq-g32", True)], ids=["TP2", "TP2 + EP"])
def test_two_devices(
    scheme: str, experts: bool, reference: Worker, checkpoint: Callable[[str, str], str], tmp_path: Path
) -> None:
    """Columns of one matrix and rows of the next are split, or whole experts shared out."""
    folder = checkpoint("qwen3-moe", scheme)
    process = Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path))
    layout = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp", "enable_expert_parallel": experts}
    try:
        process.call("load", name="two", model=folder, skip_tokenizer_init=True, dtype="bfloat16", **layout)
        got = process.call("generate", name="two", prompts=prompts(), params=GREEDY)
        process.call("unload", name="two")
    finally:
        code = process.close()
    assert code == 0, process.log_tail()
    ties.check(reference, folder, prompts(), got, meant(reference, folder, "bfloat16"), jitters=JITTERS)


@pytest.mark.parametrize(
    ("scheme", "changes", "reason"),
    [
        ("gptq-w4-g32", {"desc_act": True}, "experts cannot run: groups in the order of the activations"),
        ("gptq-w4-g32", {"group_size": 64}, "experts cannot run: groups of 64 do not divide the 96 rows per device"),
        ("w8-group", {}, "experts of 8 bits with one scale per column, not per group: quantize to 4 bits"),
    ],
)
def test_what_no_product_takes_is_refused_with_a_remedy(
    scheme: str, changes: dict[str, Any], reason: str, worker: Worker, checkpoint: Callable[[str, str], str],
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / "changed"
    shutil.copytree(checkpoint("qwen3-moe", scheme), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WorkerError, match=reason):
        worker.call("load", name="refused", model=str(folder), skip_tokenizer_init=True, dtype="bfloat16")


def test_a_layer_of_which_a_part_is_quantized_is_refused(
    worker: Worker, checkpoint: Callable[[str, str], str], tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(checkpoint("qwen3-moe", "awq-g32"), folder)
    worker.call("add_tensor", folder=str(folder), name="model.layers.0.mlp.experts.16.up_proj.qweight")
    with pytest.raises(WorkerError, match="has 49 of its 48 matrices quantized: quantize all of a layer's experts"):
        worker.call("load", name="refused", model=str(folder), skip_tokenizer_init=True, dtype="bfloat16")
