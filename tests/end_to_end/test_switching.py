"""Patches off: any optional one may be; without a required one no engine starts."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import combinations, permutations
from math import comb
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.upstream import Copy, gone, other_body
from tests.end_to_end.worker import CHECKOUT, Worker, WorkerError, overlay_environment
from tests.models.families import prompts

pytestmark = pytest.mark.engine_process
CLI = str(Path(sys.executable).with_name("ascend-patch"))
GREEDY = {"temperature": 0, "max_tokens": 4, "ignore_eos": True, "detokenize": False}


@lru_cache(maxsize=1)
def registry() -> list[dict[str, Any]]:
    """Every patch as `ascend-patch list --json` names it."""
    shown = subprocess.run([CLI, "list", "--json"], env=overlay_environment(), cwd=CHECKOUT, timeout=120,
                           capture_output=True, text=True)  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    patches: list[dict[str, Any]] = json.loads(shown.stdout)["patches"]
    return patches


def ids(required: bool) -> list[str]:
    """The patches that are in force unless somebody switches them off."""
    return [patch["id"] for patch in registry() if patch["required"] is required and patch["state"] == "pending"]


def groups(items: list[str]) -> list[list[str]]:
    """A few groups such that of any two items each is in some group without the other.

    Each item is in another half of the groups, and of two different halves none holds the other: eight groups suffice
    for seventy items.
    """
    count = next(count for count in range(2, 100, 2) if comb(count, count // 2) >= len(items))
    halves = list(zip(items, combinations(range(count), count // 2), strict=False))
    return [[item for item, half in halves if number in half] for number in range(count)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The parameters come from the registry: a new patch is tested without a change here."""
    for name, find in (("off", lambda: groups(ids(False))), ("required_patch", lambda: ids(True))):
        if name in metafunc.fixturenames:
            try:
                found: list[Any] = find()
            except (AssertionError, OSError, subprocess.TimeoutExpired):
                # Fails these tests alone; an error here would end the collection of all.
                found = ["unreadable-registry"]
            metafunc.parametrize(name, found, ids=str if name == "required_patch" else None)


@pytest.fixture(scope="module")
def expected(worker: Worker, tiny_llama: str) -> list[list[int]]:
    answers = worker.call("reference_greedy", folder=tiny_llama, dtype="float32", prompts=prompts(), count=4)
    return [answer["token_ids"] for answer in answers]


def refusal(model: str, folder: Path, dtype: str = "float32", **environment: str) -> str:
    """Start an engine, its core in a process of its own; what was said when that was refused."""
    variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", **environment}
    process = Worker(folder / "worker.log", **variables)
    try:
        with pytest.raises(WorkerError) as raised:
            process.call("load", name="refused", model=model, dtype=dtype, skip_tokenizer_init=True, max_model_len=256)
    finally:
        process.close()
    return str(raised.value) + process.log()


def assert_refused(output: str, patch: str) -> None:
    """The error names the patch and what to run, and comes before vLLM starts a process."""
    assert patch in output
    assert "ascend-patch" in output
    assert "(EngineCore" not in output, "an engine process was started first"


def test_of_two_patches_each_is_off_while_the_other_is_on() -> None:
    for count in (1, 2, 7, 42, 71):
        items = [f"patch-{number}" for number in range(count)]
        made = groups(items)
        for first, second in permutations(items, 2):
            assert any(first in group and second not in group for group in made), (first, second)
        assert all(any(item in group for group in made) for item in items)


def test_every_patch_is_listed_with_its_reason() -> None:
    assert len(registry()) >= 10
    for patch in registry():
        assert patch["why"], patch["id"]
        assert patch["state"] in {"pending", "skipped", "disabled"}, (
            patch["id"],
            patch["state"],
            patch["state_reason"],
        )


def test_generation_without_optional_patches(
    off: list[str], tmp_path: Path, tiny_llama: str, expected: list[list[int]]
) -> None:
    """In float32 the answer stays the same: an optional patch is about speed, comfort or a feature.

    Half of them are off at a time, so each is off four times, with every other one on at least once: a patch
    that needs another without saying so is found. One process for each patch would take minutes.
    """
    process = Worker(tmp_path / "worker.log", VLLM_ASCEND_PATCH_DISABLE=",".join(off))
    try:
        process.call("load", name="tiny", model=tiny_llama, dtype="float32", skip_tokenizer_init=True)
        states = process.call("status")
        got = process.call("generate", name="tiny", prompts=prompts(), params=GREEDY)
    finally:
        code = process.close()
    assert {states[patch] for patch in off} == {"disabled"}
    assert [answer["token_ids"] for answer in got] == expected
    assert code == 0, process.log_tail()


def test_disabling_a_required_patch_is_refused(required_patch: str, tmp_path: Path, tiny_llama: str) -> None:
    assert_refused(refusal(tiny_llama, tmp_path, VLLM_ASCEND_PATCH_DISABLE=required_patch), required_patch)


def required_methods(kind: str) -> Iterator[tuple[str, str]]:
    """Required patches with a method that they rewrite in this way in the installed vLLM."""
    for patch in registry():
        for variant in patch["variants"]:
            if patch["required"] and variant["versions"] == patch["variant"]:
                for rewrite in variant["rewrites"]:
                    if rewrite["kind"] == kind and "." in rewrite["target"].partition(":")[2]:
                        yield patch["id"], rewrite["target"]


# A replacement stands for a body, so another body is drift; a retarget follows any body with the same sites.
@pytest.mark.parametrize(("kind", "change"), [("replace", other_body), ("retarget", gone)], ids=["body", "method"])
def test_a_drifted_required_patch_is_refused(
    kind: str, change: Callable[[list[ast.stmt], int], None], tmp_path: Path, tiny_llama: str
) -> None:
    """vLLM changed a function that a required patch rewrites: the error names patch and target."""
    patch, target = next(required_methods(kind), ("", ""))
    if not patch:
        pytest.skip(f"no required patch has a {kind} of a method in this vLLM")
    Copy(tmp_path).edit(target, change)
    output = refusal(tiny_llama, tmp_path, PYTHONPATH=str(tmp_path))
    assert_refused(output, patch)
    assert target in output


def test_a_soc_without_an_attention_operator_is_refused_with_a_remedy(tmp_path: Path, tiny_llama: str) -> None:
    """310P has neither fused inference attention in TND nor flash attention: said at start, not in the first step."""
    variables = {"HOSTCANN_SOC": "Ascend310P3", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    output = refusal(tiny_llama, tmp_path, dtype="float16", **variables)
    assert "Ascend310P3 has no attention operator that ascend_patch knows for torch.float16" in output, output[-3000:]
