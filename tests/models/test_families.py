"""Fifteen model families on the overlay against transformers on the CPU, greedy, token for token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.end_to_end.worker import Worker
from tests.models import ties
from tests.models.families import FAMILIES, WINDOW, has_experts, prompts

COUNT = 8
# Far above float32 rounding (logits reach about 10), so that a different token is a different computation.
CLEAR_MARGIN = 2e-3
JITTERS = 4
CASES = [
    pytest.param(family, marks=pytest.mark.shows("mixtures of experts" if has_experts(family) else "dense decoders"))
    for family in FAMILIES
]
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}


@pytest.fixture
def engine(worker: Worker, family_folder: Callable[[str], str]) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Run all prompts, in one batch, on a family in a dtype."""
    loaded = []

    def run(family: str, dtype: str, **options: Any) -> list[dict[str, Any]]:
        facts = worker.call("load", name=family, model=family_folder(family), dtype=dtype,
                            skip_tokenizer_init=True, **options)  # fmt: skip
        loaded.append(family)
        assert facts["device"] == "npu"
        assert facts["dtype"] == dtype
        answers: list[dict[str, Any]] = worker.call("generate", name=family, prompts=prompts(), params=GREEDY)
        return answers

    yield run
    for name in loaded:
        worker.call("unload", name=name)


@pytest.mark.parametrize("family", CASES)
def test_float32_tokens_equal_transformers(
    family: str, engine: Any, reference: Worker, family_folder: Callable[[str], str], record_property: Any
) -> None:
    expected = reference.call(
        "reference_greedy", folder=family_folder(family), dtype="float32", prompts=prompts(), count=COUNT
    )
    margin = min(first[1] - second[1] for answer in expected for first, second in answer["best"])
    record_property("smallest_margin", margin)
    assert margin > CLEAR_MARGIN, "the model does not separate its answers: choose another seed"
    got = engine(family, "float32")
    assert [answer["token_ids"] for answer in got] == [answer["token_ids"] for answer in expected]


@pytest.mark.parametrize("family", CASES)
def test_bfloat16_tokens_equal_transformers_up_to_ties(
    family: str, engine: Any, reference: Worker, family_folder: Callable[[str], str], record_property: Any
) -> None:
    folder = family_folder(family)
    expected = reference.call("reference_greedy", folder=folder, dtype="bfloat16", prompts=prompts(), count=COUNT)
    got = engine(family, "bfloat16")
    jitters = JITTERS if has_experts(family) else 0
    found = ties.check(reference, folder, prompts(), got, expected, jitters=jitters)
    for difference in found:
        record_property("tie", difference._asdict())
    record_property("equal_answers", len(got) - len(found))


@pytest.mark.parametrize("family", ["mistral-sliding-window", "gemma3"])
def test_window_matters_to_the_reference(family: str, reference: Worker, family_folder: Callable[[str], str]) -> None:
    """Guards the tests above: with a wrong window the expected tokens would be others."""
    folder = family_folder(family)
    long_prompts = [prompt for prompt in prompts() if len(prompt) > WINDOW]
    arguments = {"folder": folder, "dtype": "float32", "prompts": long_prompts, "count": COUNT}
    windowed = reference.call("reference_greedy", **arguments)
    unlimited = reference.call("reference_greedy", **arguments, sliding_window=4096)
    assert [answer["token_ids"] for answer in windowed] != [answer["token_ids"] for answer in unlimited]


@pytest.mark.parametrize("family", ["llama", "mistral-sliding-window"])
def test_chunked_prefill_gives_the_same_tokens(
    family: str, engine: Any, reference: Worker, family_folder: Callable[[str], str]
) -> None:
    """A step takes at most 64 tokens: long prompts are cut, and prefill and decode meet in one batch."""
    expected = reference.call(
        "reference_greedy", folder=family_folder(family), dtype="float32", prompts=prompts(), count=COUNT
    )
    got = engine(family, "float32", max_num_batched_tokens=64, enable_chunked_prefill=True)
    assert [answer["token_ids"] for answer in got] == [answer["token_ids"] for answer in expected]


LAYER_OF_EXPERTS = {
    "aclnnMoeInitRoutingV3": 1,
    "aclnnGroupedMatmulV5": 2,
    "aclnnSwiGlu": 1,
    "aclnnMoeFinalizeRoutingV2": 1,
}


@pytest.mark.parametrize(
    ("family", "layers", "dense_layers", "gate"),
    [("mixtral", 2, 0, "aclnnMoeGatingTopKSoftmaxV2"), ("glm4-moe", 2, 1, "aclnnMoeGatingTopK")],
)
def test_a_layer_of_experts_is_six_operators(
    family: str, layers: int, dense_layers: int, gate: str, engine: Any, worker: Worker
) -> None:
    """Per layer and step, as the device saw them; beside them only the gate's product and its result's type."""
    engine(family, "bfloat16")
    options = {"name": family, "prompts": [[5, 6, 7, 8], [9, 10, 11]]}
    short, long = (worker.call("traced_counts", **options, params={**GREEDY, "max_tokens": count}) for count in (2, 6))
    per_step = {name: (calls - short["aclnn"][name]) / 4 for name, calls in long["aclnn"].items()}
    expected = {name: calls * layers for name, calls in {**LAYER_OF_EXPERTS, gate: 1}.items()}
    # The dense layer, and the expert that all tokens share, have an activation each.
    expected["aclnnSwiGlu"] += dense_layers + (layers if dense_layers else 0)
    assert {name: per_step[name] for name in expected} == expected
