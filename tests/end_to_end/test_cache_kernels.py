"""Kernels for embeddings and cache blocks, where vLLM calls them: with the kernel, with its reference, without both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm, skip_without
from tests.end_to_end.worker import Worker, WorkerError

pytestmark = pytest.mark.shows("KV cache: zeroing and offloading")

OPTIONS: dict[str, Any] = {"dtype": "float32", "skip_tokenizer_init": True}
GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, "detokenize": False}
BLOCK = 128
# Eleven blocks for four prompts of four blocks each: three of them push the first one out.
CROWDED: dict[str, Any] = {**OPTIONS, "num_gpu_blocks_override": 12, "enable_prefix_caching": True}
PROMPTS = [[(7 * place + 13 * prompt + 3) % 500 + 2 for place in range(400)] for prompt in range(4)]
VLLM = Version(installed_vllm())
CONNECTOR = "SimpleCPUOffloadConnector" if Version("0.19") <= VLLM else "OffloadingConnector"
CONNECTOR_PATCH = "kv_offload.simple_cpu" if Version("0.19") <= VLLM else "kv_offload.offloading_connector"
HOST_SPACE = {"cpu_bytes_to_use": 64 << 20} if Version("0.14") <= VLLM else {"num_cpu_blocks": 64}


@pytest.fixture(params=["kernel", "reference", "no kernel"])
def process(request: pytest.FixtureRequest, worker: Worker, missing_kernels: Worker, kernels_off: Worker) -> Worker:
    """A process with the kernels, one that cannot load them, and one whose kernel patches are off."""
    return {"kernel": worker, "reference": missing_kernels, "no kernel": kernels_off}[request.param]


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_ranks_of_an_embedding_add_up_to_the_table(
    process: Worker, worker: Worker, kernels_off: Worker, ranks: int
) -> None:
    found = process.call("embed_in_parallel", seed=ranks, ranks=ranks)
    assert found["sum"] == found["rows"]
    assert ("masked_vocabulary_index_int32" in found["operators"]) is (process is worker)


@pytest.fixture(scope="module")
def expected(worker: Worker, tiny_llama: str) -> list[list[int]]:
    """What transformers answers."""
    arguments = {"folder": tiny_llama, "dtype": "float32", "prompts": PROMPTS, "count": GREEDY["max_tokens"]}
    return [answer["token_ids"] for answer in worker.call("reference_greedy", **arguments)]


@pytest.mark.parametrize("process", ["kernel", "reference"], indirect=True)
def test_blocks_are_zeroed_in_every_layer_and_plane(process: Worker, tiny_llama: str) -> None:
    skip_without("kv_cache.zero_blocks")
    process.call("load", name="zeroed", model=tiny_llama, **CROWDED)
    for blocks in ([1, 5, 6, 11], [3], []):
        assert process.call("zeroed_blocks", name="zeroed", blocks=blocks) == [blocks, blocks]
    process.call("unload", name="zeroed")


@pytest.fixture(params=["1", "0"], ids=["kernel", "reference"])
def zeroing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Worker, bool]]:
    """A process in which every cache counts as one whose new blocks must be zeroed, and whether it has kernels."""
    process = Worker(tmp_path / "worker.log", ASCEND_PATCH_KERNELS=request.param)
    process.call("zero_new_blocks")
    yield process, request.param == "1"
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


def test_tokens_are_right_when_new_blocks_are_zeroed(
    zeroing: tuple[Worker, bool], tiny_llama: str, expected: list[list[int]]
) -> None:
    skip_without("kv_cache.zero_blocks")
    process, with_kernels = zeroing
    process.call("load", name="zeroing", model=tiny_llama, **CROWDED)
    for _ in range(2):
        found = process.call("generate", name="zeroing", prompts=PROMPTS, params=GREEDY)
        assert [answer["token_ids"] for answer in found] == expected
    seen = process.call("traced_operators", name="zeroing", prompts=PROMPTS, params=GREEDY)
    assert ("zero_blocks" in seen) is with_kernels


def one_by_one(process: Worker, name: str) -> list[dict[str, Any]]:
    return [process.call("generate", name=name, prompts=[prompt], params=GREEDY)[0] for prompt in PROMPTS]


def check_reuse(process: Worker, model: str, expected: list[list[int]], extra: dict[str, Any]) -> None:
    """Prefixes that were pushed out of the cache come back, and with them the same tokens."""
    connector = {"kv_connector": CONNECTOR, "kv_role": "kv_both", "kv_connector_extra_config": extra}
    process.call("load", name="offloading", model=model, kv_transfer_config=connector, **CROWDED)
    try:
        for cached in (0, 3 * BLOCK, 3 * BLOCK):
            found = one_by_one(process, "offloading")
            assert [answer["token_ids"] for answer in found] == expected
            assert [answer["cached_tokens"] for answer in found] == [cached] * len(PROMPTS)
    finally:
        process.call("unload", name="offloading")


def test_prefixes_come_back_from_the_host(process: Worker, tiny_llama: str, expected: list[list[int]]) -> None:
    skip_without(CONNECTOR_PATCH)
    check_reuse(process, tiny_llama, expected, HOST_SPACE)


def test_prefixes_come_back_from_disk(
    worker: Worker, tiny_llama: str, expected: list[list[int]], tmp_path: Path
) -> None:
    if Version("0.28") > VLLM:
        pytest.skip("this vLLM offloads to the host only")
    on_disk = {
        "kv_offload_backend": "disk",
        "disk_path": str(tmp_path / "blocks"),
        "disk_capacity_bytes": 64 << 20,
    }
    check_reuse(worker, tiny_llama, expected, on_disk)


def test_without_a_connector_the_prefixes_are_lost(worker: Worker, tiny_llama: str, expected: list[list[int]]) -> None:
    worker.call("load", name="crowded", model=tiny_llama, **CROWDED)
    for _ in range(2):
        found = one_by_one(worker, "crowded")
        assert [answer["token_ids"] for answer in found] == expected
        assert max(answer["cached_tokens"] for answer in found) < 3 * BLOCK
    worker.call("unload", name="crowded")


@pytest.mark.parametrize("staging_bytes", [1, 4000, 1 << 20])
def test_scattered_blocks_move_out_and_back(process: Worker, worker: Worker, staging_bytes: int) -> None:
    skip_without("kv_offload.simple_cpu")
    found = process.call("move_blocks", seed=staging_bytes, rounds=15, staging_bytes=staging_bytes)
    gathers = process is worker and staging_bytes > 1
    assert found == (["copy_blocks_int64"] if gathers else [])


def test_transfers_keep_the_order_of_streams(tmp_path: Path) -> None:
    skip_without("kv_offload.simple_cpu")
    process = Worker(tmp_path / "worker.log", HOSTCANN_STREAMS="check")
    try:
        assert process.call("move_blocks", seed=7, rounds=8, staging_bytes=4000) == ["copy_blocks_int64"]
    finally:
        assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.mark.parametrize("factor", [1, 2])
def test_blocks_of_a_step_leave_after_it_and_come_back(factor: int, tmp_path: Path) -> None:
    """hostcann refuses what reads before it was written; a block of the host may hold several of the device."""
    skip_without("kv_offload.offloading_connector")
    with Worker(tmp_path / "worker.log", HOSTCANN_STREAMS="check") as process:
        process.call("offload_a_step", factor=factor)


def test_what_a_step_wrote_leaves_after_it(tmp_path: Path) -> None:
    """As of 0.24 vLLM itself records an event after the step."""
    skip_without("kv_offload.simple_cpu")
    if Version("0.24") <= VLLM:
        pytest.skip("vLLM waits for the step itself")
    with Worker(tmp_path / "worker.log", HOSTCANN_STREAMS="check") as process:
        process.call("simply_offload_a_step")


def test_what_cannot_offload_is_refused_with_a_remedy(tiny_llama: str, tmp_path: Path) -> None:
    """The connector that vLLM makes of a size, the one that is named, and one without its patch."""
    native = {"kv_transfer_config": {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}}
    named = {"kv_transfer_config": {"kv_connector": CONNECTOR, "kv_role": "kv_both"}}
    remedy = r"Set VLLM_USE_SIMPLE_KV_OFFLOAD=1 beside --kv-offloading-size, or name SimpleCPUOffloadConnector"
    others = [({"kv_offloading_size": 1}, remedy), (native, remedy)] if Version("0.19") <= VLLM else []
    with Worker(tmp_path / "worker.log", VLLM_ASCEND_PATCH_DISABLE=CONNECTOR_PATCH) as process:
        for options, message in [*others, (named, f"{CONNECTOR} needs the patch {CONNECTOR_PATCH}, which is not in")]:
            with pytest.raises(WorkerError, match=message):
                process.call("load", name="refused", model=tiny_llama, **OPTIONS, **options)
