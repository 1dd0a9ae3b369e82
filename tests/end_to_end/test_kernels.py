"""Our kernels in the engine: they are launched, each can be switched off, and the tokens stay the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import has_rewrites
from tests.end_to_end.worker import Worker
from tests.models.families import prompts

pytestmark = pytest.mark.shows("AscendC kernels, and without them")

COMMON = {"max_tokens": 6, "ignore_eos": True, "detokenize": False}
SETTINGS: list[dict[str, Any]] = [
    {**COMMON, "temperature": 0, "logprobs": 3},
    {**COMMON, "temperature": 0.7, "seed": 1, "min_p": 0.05},
    {**COMMON, "temperature": 1.1, "seed": 2, "repetition_penalty": 1.3, "presence_penalty": 0.4},
    {**COMMON, "temperature": 0, "frequency_penalty": 0.6, "prompt_logprobs": 1},
]
# The entries that these settings must reach; the grammar has a test of its own.
LAUNCHED = ["min_p_temperature_float", "apply_penalties_float", "token_logprob_and_rank_float"]
if has_rewrites("worker.slot_mapping_kernel"):  # up to 0.18 vLLM computes the slots on the host
    LAUNCHED.append("compute_slot_mapping")


def answers(process: Worker, model: str, dtype: str, name: str) -> list[dict[str, Any]]:
    process.call("load", name=name, model=model, dtype=dtype, skip_tokenizer_init=True)
    params = [SETTINGS[index % len(SETTINGS)] for index in range(len(prompts()))]
    found: list[dict[str, Any]] = process.call("generate", name=name, prompts=prompts(), params=params)
    return found


def tokens(found: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["token_ids"] for answer in found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_are_the_same_without_kernels(
    dtype: str, worker: Worker, kernels_off: Worker, missing_kernels: Worker, tiny_llama: str
) -> None:
    name = f"kernels {dtype}"
    with_kernels = answers(worker, tiny_llama, dtype, name)
    without = answers(kernels_off, tiny_llama, dtype, name)
    assert tokens(with_kernels) == tokens(without)
    assert tokens(answers(missing_kernels, tiny_llama, dtype, name)) == tokens(without)
    assert [answer["logprobs"] is None for answer in with_kernels] == [answer["logprobs"] is None for answer in without]
    for ours, theirs in zip(with_kernels, without, strict=True):
        for here, there in zip(ours["logprobs"] or [], theirs["logprobs"] or [], strict=True):
            assert here == pytest.approx(there, abs=1e-4)


def test_the_kernels_are_launched(worker: Worker, kernels_off: Worker, tiny_llama: str) -> None:
    for process, expected in ((worker, True), (kernels_off, False)):
        process.call("load", name="traced", model=tiny_llama, dtype="float32", skip_tokenizer_init=True)
        params = [SETTINGS[index % len(SETTINGS)] for index in range(4)]
        seen = process.call("traced_operators", name="traced", prompts=prompts()[:4], params=params)
        assert [name in seen for name in LAUNCHED] == [expected] * len(LAUNCHED), seen


def test_a_kernel_that_is_missing_is_said_once(missing_kernels: Worker, tiny_llama: str) -> None:
    answers(missing_kernels, tiny_llama, "float32", "said once")
    lines = [
        line for line in missing_kernels.log().splitlines() if "kernel min_p_temperature: PyTorch reference" in line
    ]
    assert len(lines) == 1, missing_kernels.log_tail()


def test_the_grammar_is_obeyed_with_and_without_its_kernel(
    engine: Callable[..., Any], kernels_off: Worker, missing_kernels: Worker, demo_model_folder: Path
) -> None:
    # The xgrammar that vLLM up to 0.17 pins has no way of its own for NPUs: there the patch has to be on.
    other = kernels_off if Version(version("xgrammar")) >= Version("0.1.32") else missing_kernels
    params = {"temperature": 0, "max_tokens": 8, "structured_outputs": {"regex": "[A-Z][a-z]{3,6}!"}}
    free = {"temperature": 0, "max_tokens": 8}
    options = {"dtype": "float32", "max_model_len": 512}
    smollm = engine(demo_model_folder, **options)
    other.call("load", name="grammar", model=str(demo_model_folder), **options)
    questions = ["The name of the cat is", "The capital of Italy is"]
    ours = smollm.generate(questions, [params, free])
    theirs = other.call("generate", name="grammar", prompts=questions, params=[params, free])
    assert tokens(ours) == tokens(theirs)
    assert ours[0]["text"].endswith("!")
    seen = smollm.worker.call("traced_operators", name=smollm.name, prompts=questions, params=[params, free])
    assert "apply_grammar_bitmask_float" in seen
