"""One model, two data-parallel ranks: with mixtures of experts all ranks compute their experts' part of every step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import skip_before
from tests.end_to_end.ranks import Ranks
from tests.end_to_end.ray_cluster import RayCluster
from tests.end_to_end.server import serve
from tests.end_to_end.worker import Worker
from tests.models.encoders import add_tokenizer
from tests.models.families import prompts

COUNT = 8
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
OPTIONS: dict[str, Any] = {"skip_tokenizer_init": True, "distributed_executor_backend": "mp"}


GATHERED = pytest.mark.shows("Mixtral: DP2 + EP, tokens gathered", table="layouts")
SENT = pytest.mark.shows("Mixtral: DP2 + EP, all-to-all", table="layouts")
FUSED = pytest.mark.shows("Mixtral: DP2 + EP, fused dispatch and combine", table="layouts")


@pytest.fixture(
    params=[
        pytest.param("gather", marks=GATHERED),
        pytest.param("alltoall", marks=[SENT, pytest.mark.slow]),
        pytest.param("fused", marks=[FUSED, pytest.mark.slow]),
    ]
)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ranks(form: str, tmp_path: Path) -> Iterator[Ranks]:
    ranks = Ranks(tmp_path, VLLM_ASCEND_PATCH_MOE_EXCHANGE=form)
    yield ranks
    ranks.close()


@pytest.mark.shows("Llama: DP2, vllm serve", table="layouts")
def test_a_server_of_two_dense_engines(worker: Worker, tmp_path: Path) -> None:
    """The server deals requests out among its engines: sent at once, both have some."""
    check_two_engines(worker, tmp_path)


@pytest.mark.slow
@pytest.mark.shows("Llama: DP2 with Ray, vllm serve", table="layouts")
def test_a_server_of_two_dense_engines_that_are_actors_of_ray(worker: Worker, tmp_path: Path) -> None:
    """On a cluster that was started without the overlay."""
    skip_before("0.24.0", "actors that are told their devices, not shown them when CANN has looked already")
    with closing(RayCluster(devices=2)) as cluster:
        options = ["--data-parallel-backend", "ray", "--data-parallel-size-local", "2"]
        check_two_engines(worker, tmp_path, *options, at_work=cluster.remember_segments, **cluster.environment)


def check_two_engines(
    worker: Worker, tmp_path: Path, *more: str, at_work: Callable[[], None] = lambda: None, **environment: str
) -> None:
    model = str(tmp_path / "llama")
    worker.call("make_family", family="llama", folder=model)
    expected = worker.call("reference_greedy", folder=model, dtype="float32", prompts=prompts(), count=COUNT)
    add_tokenizer(model)
    options = ["--data-parallel-size", "2", "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    options += ["--served-model-name", "llama", "--gpu-memory-utilization", "0.05", *more]
    runs = {"XDG_RUNTIME_DIR": str(tmp_path), **environment}
    with serve(model, tmp_path / "server.log", *options, **runs) as server:

        def ask(prompt: list[int]) -> Any:
            greedy = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "return_token_ids": True}
            return server.post("/v1/completions", {"model": "llama", "prompt": prompt, **greedy})["choices"][0][
                "token_ids"
            ]

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(ask, prompts() * 2))
        metrics = server.get("/metrics")
        at_work()
    counter = re.compile(
        r'^vllm:request_success_total\{engine="(\d)",.*finished_reason="length".* (\S+)$', re.MULTILINE
    )
    served = {engine: float(count) for engine, count in counter.findall(metrics)}
    assert sum(served.values()) == 8 and set(served) == {"0", "1"} and all(served.values()), served
    assert found == [answer["token_ids"] for answer in expected] * 2


def test_experts_of_two_ranks(form: str, ranks: Ranks, worker: Worker, tmp_path: Path) -> None:
    """Three requests on one rank and one on the other, which is idle for most steps and computes for the first."""
    model, none = str(tmp_path / "model"), ({}, {})
    worker.call("make_family", family="mixtral", folder=model)
    # The operators take no float32; 16 bits are enough here to tell these tokens apart.
    dtype = "float16" if form == "fused" else "float32"
    expected = worker.call("reference_greedy", folder=model, dtype="float32", prompts=prompts(), count=COUNT)
    # A step may have more tokens than the operators take at once, which are then gathered.
    ranks.call("load", none, name="e", model=model, dtype=dtype, enable_expert_parallel=True,
               max_num_batched_tokens=264, enable_chunked_prefill=True, **OPTIONS)  # fmt: skip
    own = ({"prompts": prompts()[:3]}, {"prompts": prompts()[3:]})
    both = ranks.call("traced_ranks", own, name="e", params=GREEDY)
    found = [answer for traced in both for answer in traced["answers"]]
    assert [answer["token_ids"] for answer in found] == [answer["token_ids"] for answer in expected]
    for traced in both:
        (seen,) = traced["ranks"]
        assert ("aclnnMoeDistributeDispatchV2" in seen["aclnn"]) == (form == "fused"), seen
        # Rows there and back, and their numbers in between, in every layer and step.
        assert ("HcclAlltoAllV" in seen["hccl"]) == ("HcclAlltoAll" in seen["hccl"]) == (form == "alltoall"), seen
    ranks.call("unload", none, name="e")
