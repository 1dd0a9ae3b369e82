"""Quantized checkpoints on the overlay, against their layers in exact integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import skip_before
from tests.end_to_end.worker import Worker, WorkerError
from tests.models import ties
from tests.models.families import prompts
from tests.models.quantised import SCHEMES, WEIGHT_ONLY

pytestmark = pytest.mark.shows("quantized weights: W8A8, W4A16, W8A16")
COUNT = 8
JITTERS = 4
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
# Of each scheme one layer is compared in both types, and closer, in tests/patches/test_int8_linear.py.
CASES = [
    *(("llama", scheme, "bfloat16") for scheme in SCHEMES),
    ("llama", "channel-dynamic", "float16"), ("llama", "channel-shifted", "float16"),
    ("qwen2", "channel-dynamic", "bfloat16"), ("qwen2", "channel-shifted", "float16"),
    ("qwen3-moe", "channel-dynamic", "bfloat16"), ("qwen3-moe", "channel-dynamic", "float16"),
    ("qwen3-moe", "modelslim-half", "float16"), ("glm4-moe", "modelslim", "bfloat16"),
    *(("llama", scheme, "bfloat16") for scheme in WEIGHT_ONLY),
    ("qwen2", "w4-group-shifted", "float16"), ("qwen2", "w8-group", "bfloat16"),
    ("llama", "modelslim", "bfloat16"), ("qwen2", "modelslim", "bfloat16"), ("qwen2", "modelslim-half", "float16"),
]  # fmt: skip


@pytest.fixture(scope="module")
def quantised_folder(
    reference: Worker, family_folder: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], str]:
    """The checkpoint of a family in a scheme, made on first use."""
    base = tmp_path_factory.mktemp("quantised")

    def folder(family: str, scheme: str) -> str:
        path: Path = base / f"{family}-{scheme}"
        if not path.exists():
            source = family_folder(family)
            reference.call("make_quantised", source=source, folder=str(path), scheme=scheme)
        return str(path)

    return folder


@pytest.fixture
def engine(worker: Worker) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Run all prompts, in one batch, on a checkpoint."""
    loaded = []

    def run(folder: str, **options: Any) -> list[dict[str, Any]]:
        worker.call("load", name=folder, model=folder, skip_tokenizer_init=True, **options)
        loaded.append(folder)
        answers: list[dict[str, Any]] = worker.call("generate", name=folder, prompts=prompts(), params=GREEDY)
        return answers

    yield run
    for name in loaded:
        worker.call("unload", name=name)


@pytest.mark.parametrize(("family", "scheme", "dtype"), CASES)
def test_tokens_equal_exact_integers_up_to_ties(
    family: str, scheme: str, dtype: str, engine: Any, reference: Worker,
    quantised_folder: Callable[[str, str], str], record_property: Any,
) -> None:  # fmt: skip
    folder = quantised_folder(family, scheme)
    expected = reference.call("reference_greedy", folder=folder, dtype=dtype, prompts=prompts(), count=COUNT)
    named = {"quantization": "ascend"} if scheme == "modelslim-half" else {}  # others are recognised
    got = engine(folder, dtype=dtype, **named)
    found = ties.check(reference, folder, prompts(), got, expected, dtype=dtype, jitters=JITTERS)
    for difference in found:
        record_property("tie", difference._asdict())
    record_property("equal_answers", len(got) - len(found))


def test_the_integers_matter_to_the_reference(
    reference: Worker, family_folder: Callable[[str], str], quantised_folder: Callable[[str, str], str]
) -> None:
    """Guards the tests above: an engine that left the activations as they are would give other tokens."""
    whole, rounded = (
        reference.call("reference_greedy", folder=folder, dtype="float32", prompts=prompts(), count=COUNT)
        for folder in (family_folder("llama"), quantised_folder("llama", "tensor-static"))
    )
    assert [answer["token_ids"] for answer in whole] != [answer["token_ids"] for answer in rounded]


def per_step(worker: Worker, folder: str) -> dict[str, float]:
    """How often a decode step launches each of CANN's operators, as the device saw it."""
    options = {"name": folder, "prompts": [[5, 6, 7, 8], [9, 10, 11]]}
    short, long = (worker.call("traced_counts", **options, params={**GREEDY, "max_tokens": count}) for count in (2, 6))
    return {name: (calls - short["aclnn"].get(name, 0)) / 4 for name, calls in long["aclnn"].items()}


@pytest.mark.parametrize(
    ("scheme", "known", "found"), [("channel-dynamic", 0, 8), ("channel-static", 8, 0), ("modelslim", 4, 2)]
)
def test_a_linear_layer_is_two_operators(
    scheme: str, known: int, found: int, engine: Any, worker: Worker, quantised_folder: Callable[[str, str], str]
) -> None:
    """Per step, as the device saw them: two layers of four matrices (queries, keys and values are one)."""
    folder = quantised_folder("llama", scheme)
    engine(folder, dtype="bfloat16")
    counts = per_step(worker, folder)
    names = ("aclnnAscendQuantV3", "aclnnDynamicQuantV2", "aclnnQuantMatmulWeightNz")
    assert [counts.get(name, 0) for name in names] == [known, found, known + found]


def test_a_reload_fills_new_tiles(engine: Any, worker: Worker, quantised_folder: Callable[[str, str], str]) -> None:
    """Weights that are read again lie where those before lay, in the same format; embeddings and head stay in ND."""
    skip_before("0.16.0", "a reload that knows of quantized layers")
    folder = quantised_folder("llama", "channel-dynamic")
    before = [answer["token_ids"] for answer in engine(folder, dtype="bfloat16")]
    state = [worker.call(name, name=folder) for name in ("weight_formats", "weight_addresses")]
    assert sorted(state[0].values()) == [2, 2, *[29] * 8]
    worker.call("reload_weights", name=folder)
    assert [worker.call(name, name=folder) for name in ("weight_formats", "weight_addresses")] == state
    again = worker.call("generate", name=folder, prompts=prompts(), params=GREEDY)
    assert [answer["token_ids"] for answer in again] == before


def test_quantized_weights_alone_cost_no_more_operators(
    engine: Any, worker: Worker, quantised_folder: Callable[[str, str], str]
) -> None:
    """One product per linear layer, as without quantization."""
    folder = quantised_folder("llama", "w4-group")
    engine(folder, dtype="bfloat16")
    counts = per_step(worker, folder)
    assert counts["aclnnWeightQuantBatchMatmulV2"] == 8


def test_a_layer_of_experts_is_four_operators(
    engine: Any, worker: Worker, quantised_folder: Callable[[str, str], str]
) -> None:
    """Per step of two layers, beside routing, activation and sum; attention's two matrices are quantized as well."""
    folder = quantised_folder("qwen3-moe", "channel-dynamic")
    engine(folder, dtype="bfloat16")
    counts = per_step(worker, folder)
    grouped = sum(calls for name, calls in counts.items() if name.startswith("aclnnGroupedMatmul"))
    assert (grouped, counts["aclnnDynamicQuantV2"], counts["aclnnQuantMatmulWeightNz"]) == (4, 8, 4)
    assert counts["aclnnGroupedMatmulWeightNz"] == 4


@pytest.mark.engine_process
@pytest.mark.parametrize("experts", [False, True], ids=["TP2", "TP2 + EP"])
def test_experts_of_two_devices(
    experts: bool, reference: Worker, quantised_folder: Callable[[str, str], str], tmp_path: Path
) -> None:
    folder = quantised_folder("qwen3-moe", "channel-dynamic")
    on_two_devices(folder, reference, tmp_path, enable_expert_parallel=experts)


@pytest.mark.engine_process
@pytest.mark.parametrize("scheme", ["modelslim", "w4-group", pytest.param("channel-shifted", marks=pytest.mark.slow)])
def test_two_devices_add_a_bias_once(
    scheme: str, reference: Worker, quantised_folder: Callable[[str, str], str], tmp_path: Path
) -> None:
    """Where rows are split, partial products are added up; a zero point's part belongs to each, a bias to one."""
    on_two_devices(quantised_folder("llama", scheme), reference, tmp_path)


def on_two_devices(folder: str, reference: Worker, tmp_path: Path, **options: Any) -> None:
    expected = reference.call("reference_greedy", folder=folder, dtype="bfloat16", prompts=prompts(), count=COUNT)
    with Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path)) as process:
        process.call("load", name="two", model=folder, skip_tokenizer_init=True, dtype="bfloat16",
                     tensor_parallel_size=2, distributed_executor_backend="mp", **options)  # fmt: skip
        got = process.call("generate", name="two", prompts=prompts(), params=GREEDY)
        process.call("unload", name="two")
        assert process.close() == 0, process.log_tail()
    ties.check(reference, folder, prompts(), got, expected, jitters=JITTERS)


def test_float32_is_refused_with_a_remedy(engine: Any, quantised_folder: Callable[[str, str], str]) -> None:
    with pytest.raises(WorkerError, match="start with --dtype bfloat16"):
        engine(quantised_folder("llama", "channel-dynamic"), dtype="float32")
