"""Checkpoints in GPTQ's and AWQ's own formats on the overlay, against transformers with the weights that were meant."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.worker import Worker, WorkerError
from tests.models import ties
from tests.models.families import prompts

pytestmark = pytest.mark.shows("quantized weights in GPTQ's and AWQ's own formats")
COUNT = 8
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
# Qwen2 has biases, Phi-3 has queries, keys and values in one matrix already, and so gate and up.
CASES = [
    ("llama", "gptq-w4-g32", "bfloat16"),
    ("llama", "gptq-w4-g128-shifted", "float16"),
    ("qwen2", "gptq-w4-column", "float16"),
    ("llama", "gptq-w4-g64-ordered", "float16"),
    ("qwen2", "gptq-w4-g32-ordered-shifted", "bfloat16"),
    ("phi3", "gptq-w8-g64", "bfloat16"),
    ("qwen2", "gptq-w8-column-shifted", "bfloat16"),
    ("qwen2", "gptq-v2-w4-g64-shifted", "bfloat16"),
    ("phi3", "awq-g32", "bfloat16"),
    ("qwen2", "awq-g64", "float16"),
    ("llama", "awq-g128", "bfloat16"),
    ("llama", "awq-column", "float16"),
]
# What vLLM's users have learnt to say; the format is recognised without it.
NAMES = {"gptq-w4-g32": "gptq_marlin", "gptq-w8-g64": "gptq", "awq-g128": "awq_marlin"}


@pytest.fixture(scope="module")
def packed_folder(
    reference: Worker, family_folder: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], str]:
    """The checkpoint of a family in a scheme, made on first use."""
    base = tmp_path_factory.mktemp("packed")

    def folder(family: str, scheme: str) -> str:
        path: Path = base / f"{family}-{scheme}"
        if not path.exists():
            reference.call("make_packed", source=family_folder(family), folder=str(path), scheme=scheme)
        return str(path)

    return folder


@pytest.fixture
def answers(worker: Worker, engine: Callable[..., str]) -> Callable[..., list[dict[str, Any]]]:
    """Run all prompts, in one batch, on a checkpoint."""

    def run(folder: str, **options: Any) -> Any:
        return worker.call("generate", name=engine(folder, **options), prompts=prompts(), params=GREEDY)

    return run


def meant(reference: Worker, folder: str, dtype: str) -> Any:
    return reference.call("reference_greedy", folder=folder, dtype=dtype, prompts=prompts(), count=COUNT)


@pytest.mark.parametrize(("family", "scheme", "dtype"), CASES)
def test_tokens_equal_those_of_the_weights_that_were_meant(
    family: str, scheme: str, dtype: str, answers: Any, reference: Worker,
    packed_folder: Callable[[str, str], str], record_property: Any,
) -> None:  # fmt: skip
    folder = packed_folder(family, scheme)
    named = {"quantization": NAMES[scheme]} if scheme in NAMES else {}
    got = answers(folder, dtype=dtype, **named)
    found = ties.check(reference, folder, prompts(), got, meant(reference, folder, dtype), dtype=dtype)
    for difference in found:
        record_property("tie", difference._asdict())
    record_property("equal_answers", len(got) - len(found))


def test_the_order_of_columns_shows_in_the_tokens(
    answers: Any, reference: Worker, packed_folder: Callable[[str, str], str]
) -> None:
    """Guards the tests above: the same numbers, packed in another order, are another model."""
    folder = packed_folder("qwen2", "awq-wrong-order")
    got = answers(folder, dtype="float16")
    with pytest.raises(AssertionError, match="margin"):
        ties.check(reference, folder, prompts(), got, meant(reference, folder, "float16"), dtype="float16")


@pytest.mark.parametrize(
    ("scheme", "dtype", "picks"), [("gptq-w4-g64-ordered", "float16", 8), ("awq-g128", "bfloat16", 0)]
)
def test_a_linear_layer_is_one_operator(
    scheme: str, dtype: str, picks: int, engine: Callable[..., str], worker: Worker,
    packed_folder: Callable[[str, str], str],
) -> None:  # fmt: skip
    """Per step of two layers of four matrices, as the device saw them; groups in an order cost one more."""
    asked = {"name": engine(packed_folder("llama", scheme), dtype=dtype), "prompts": [[5, 6, 7, 8], [9, 10, 11]]}
    short, long = (worker.call("traced_counts", **asked, params={**GREEDY, "max_tokens": count}) for count in (2, 6))
    counted = [
        (long[kind].get(name, 0) - short[kind].get(name, 0)) / 4
        for kind, name in (("aclnn", "aclnnWeightQuantBatchMatmulV2"), ("aten", "index_select"))
    ]
    assert counted == [8, picks]


@pytest.mark.engine_process
@pytest.mark.parametrize(
    ("family", "scheme"),
    [("qwen2", "awq-g64"), pytest.param("llama", "gptq-w8-column-shifted", marks=pytest.mark.slow)],
)
def test_two_devices(
    family: str, scheme: str, reference: Worker, packed_folder: Callable[[str, str], str], tmp_path: Path
) -> None:
    """Columns of one layer and rows of the next are split."""
    folder = packed_folder(family, scheme)
    process = Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path))
    process.call("load", name="two", model=folder, skip_tokenizer_init=True, dtype="bfloat16", tensor_parallel_size=2,
                 distributed_executor_backend="mp")  # fmt: skip
    got = process.call("generate", name="two", prompts=prompts(), params=GREEDY)
    process.call("unload", name="two")
    assert process.close() == 0, process.log_tail()
    ties.check(reference, folder, prompts(), got, meant(reference, folder, "bfloat16"))


@pytest.fixture
def refused(worker: Worker, packed_folder: Callable[[str, str], str], tmp_path: Path) -> Callable[..., str]:
    """What vLLM says to a checkpoint whose description differs, or that has one more tensor."""

    def load(scheme: str, changes: dict[str, Any], tensor: str = "") -> str:
        folder = tmp_path / "changed"
        shutil.copytree(packed_folder("llama", scheme), folder)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= changes
        (folder / "config.json").write_text(json.dumps(config))
        if tensor:
            worker.call("add_tensor", folder=str(folder), name=tensor)
        with pytest.raises(WorkerError) as raised:
            worker.call("load", name="refused", model=str(folder), skip_tokenizer_init=True, dtype="bfloat16")
        return str(raised.value)

    return load


@pytest.mark.parametrize(
    ("scheme", "changes", "reason"),
    [
        ("gptq-w4-g32", {"bits": 3}, "gptq with 3 bits does not run here: quantize to 4 or 8 bits"),
        ("gptq-w4-g32", {"group_size": 16}, "gptq with groups of 16 does not run here: take a multiple of 32, or -1"),
        ("gptq-w4-g32", {"checkpoint_format": "marlin"}, "in the format marlin are for another kernel"),
        ("gptq-w4-g32", {"dynamic": {"+:.*down": {"bits": 2}}}, "gptq with 2 bits does not run here"),
        ("awq-g64", {"bits": 8}, "awq with 8 bits does not run here: quantize to 4 bits"),
        ("awq-g64", {"version": "gemv"}, "in the version gemv are for another kernel: save them as gemm"),
        ("awq-g64", {"zero_point": False}, "awq without zero points does not run here: quantize with zero_point=True"),
    ],
)  # fmt: skip
def test_what_no_layer_can_run_with_is_refused_with_a_remedy(
    scheme: str, changes: dict[str, Any], reason: str, refused: Callable[..., str]
) -> None:
    assert reason in refused(scheme, changes)


def test_a_head_is_refused_with_a_remedy(refused: Callable[..., str]) -> None:
    reason = "lm_head is quantized, which does not run here: quantize with lm_head=False"
    assert reason in refused("gptq-w4-g32", {}, "lm_head.qweight")
