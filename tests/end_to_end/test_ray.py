"""Ray's workers on a cluster that was started without the overlay: it reaches them, and tokens are as on one device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm
from tests.end_to_end.ray_cluster import RayCluster
from tests.end_to_end.test_parallel import GREEDY, OPTIONS, PIPELINE, TENSOR
from tests.end_to_end.worker import Worker
from tests.models.families import prompts

RELEASE = Version(installed_vllm())
EXECUTORS = {"compiled graph": "0", "message queues": "1"}


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster(devices=2)
    yield cluster
    cluster.close()


def case(executor: str, layout: dict[str, Any], name: str) -> Any:
    marks = [pytest.mark.slow, pytest.mark.shows(f"Llama: {name} with Ray, {executor}", table="layouts")]
    return pytest.param(executor, layout, marks=marks, id=f"{executor}-{name}")


@pytest.mark.parametrize(
    ("executor", "layout"),
    [
        case("compiled graph", TENSOR, "TP2"),
        case("compiled graph", PIPELINE, "PP2"),
        case("message queues", TENSOR, "TP2"),
        case("message queues", PIPELINE, "PP2"),
    ],
)
def test_tokens_are_those_of_transformers(
    executor: str, layout: dict[str, Any], cluster: RayCluster, worker: Worker, tmp_path: Path
) -> None:
    if executor == "message queues" and Version("0.20.0") > RELEASE:
        pytest.skip("vLLM has this executor from 0.20 on")
    if executor == "compiled graph" and Version("0.33.0") <= RELEASE:
        pytest.skip("vLLM had this executor up to 0.32")
    model = str(tmp_path / "llama")
    worker.call("make_family", family="llama", folder=model)
    reference = {"folder": model, "dtype": "float32", "prompts": prompts(), "count": GREEDY["max_tokens"]}
    expected = [answer["token_ids"] for answer in worker.call("reference_greedy", **reference)]
    process = Worker(
        tmp_path / "driver.log",
        XDG_RUNTIME_DIR=str(tmp_path),
        VLLM_USE_RAY_V2_EXECUTOR_BACKEND=EXECUTORS[executor],
        **cluster.environment,
    )
    try:
        options = {**OPTIONS, **layout, "distributed_executor_backend": "ray"}
        process.call("load", name="ray", model=model, **options)
        found = process.call("generate", name="ray", prompts=prompts(), params=GREEDY)
        cluster.remember_segments()  # unloading kills the workers, and with them what knows of their segments
        process.call("unload", name="ray")
    finally:
        cluster.remember_segments()
        code = process.close()
    assert [answer["token_ids"] for answer in found] == expected
    assert code == 0, process.log_tail()
    assert "RayWorker" in process.log()
