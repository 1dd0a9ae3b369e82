"""One model on several devices: each rank a process of vLLM's own executor, joined by HCCL; tokens as on one device."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_processes import CLI
from tests.end_to_end.worker import Worker, overlay_environment
from tests.models.families import prompts

GREEDY = {"temperature": 0, "max_tokens": 16, "ignore_eos": True, "detokenize": False}
OPTIONS: dict[str, Any] = {"dtype": "float32", "skip_tokenizer_init": True, "distributed_executor_backend": "mp"}
TENSOR = {"tensor_parallel_size": 2}
PIPELINE = {"pipeline_parallel_size": 2}
EXPERTS = {**TENSOR, "enable_expert_parallel": True}
BOTH = {**TENSOR, **PIPELINE}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Worker]:
    """A process that sees four devices, with a folder of its own for its run."""
    process = Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path))
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


def case(family: str, layout: dict[str, Any], name: str, *marks: pytest.MarkDecorator) -> Any:
    shown = pytest.mark.shows(f"{family.capitalize()}: {name}", table="layouts")
    return pytest.param(family, layout, marks=[shown, *marks], id=f"{family}-{name}")


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        case("llama", TENSOR, "TP2"),
        case("llama", PIPELINE, "PP2"),
        case("llama", BOTH, "TP2 x PP2", pytest.mark.slow),
        case("mixtral", TENSOR, "TP2"),
        case("mixtral", EXPERTS, "TP2 + EP"),
    ],
)
def test_tokens_are_those_of_transformers(
    family: str, layout: dict[str, Any], process: Worker, worker: Worker, tmp_path: Path
) -> None:
    model = str(tmp_path / family)
    worker.call("make_family", family=family, folder=model)
    reference = {"folder": model, "dtype": "float32", "prompts": prompts(), "count": GREEDY["max_tokens"]}
    expected = [answer["token_ids"] for answer in worker.call("reference_greedy", **reference)]
    process.call("load", name="parallel", model=model, **OPTIONS, **layout)
    found = process.call("generate", name="parallel", prompts=prompts(), params=GREEDY)
    assert [answer["token_ids"] for answer in found] == expected

    runs = overlay_environment(XDG_RUNTIME_DIR=str(tmp_path))
    shown = subprocess.run([CLI, "status", "--json"], env=runs, timeout=60, capture_output=True, text=True)
    (run,) = json.loads(shown.stdout)["runs"]
    assert run["agrees"], run
    roles = [entry["role"] for entry in run["processes"]]
    ranks = layout.get("tensor_parallel_size", 1) * layout.get("pipeline_parallel_size", 1)
    assert len([role for role in roles if role.startswith("Worker")]) == ranks, roles
    if layout is EXPERTS:
        assert re.search(r"EP Rank \d/2\] Expert parallelism is enabled.* 4/8\.", process.log())
    process.call("unload", name="parallel")
