"""Sleep mode: the device's memory is free while the engine sleeps, and afterwards it answers as before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import serve
from tests.end_to_end.worker import Worker, WorkerError, complaints
from tests.models.families import prompts

pytestmark = [pytest.mark.engine_process, pytest.mark.shows("sleep mode")]
GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, "detokenize": False}
KV_CACHE_BYTES = 64 << 20


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory: pytest.TempPathFactory, tiny_llama: str) -> Iterator[Worker]:
    """A process with one engine that may sleep: vLLM allows one per process."""
    process = Worker(tmp_path_factory.mktemp("sleeper") / "worker.log")
    process.call("load", name="s", model=tiny_llama, dtype="float32", skip_tokenizer_init=True, enable_sleep_mode=True)
    yield process
    process.call("unload", name="s")
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(scope="module")
def generate(sleeper: Worker) -> Callable[[], list[list[int]]]:
    def run() -> list[list[int]]:
        answers = sleeper.call("generate", name="s", prompts=prompts(), params=GREEDY)
        return [answer["token_ids"] for answer in answers]

    return run


@pytest.fixture(scope="module")
def expected(worker: Worker, tiny_llama: str) -> list[list[int]]:
    answers = worker.call("reference_greedy", folder=tiny_llama, dtype="float32", prompts=prompts(), count=6)
    return [answer["token_ids"] for answer in answers]


def test_weights_come_back_from_the_host(
    sleeper: Worker, generate: Callable[[], Any], expected: list[list[int]]
) -> None:
    assert generate() == expected
    addresses = sleeper.call("weight_addresses", name="s")
    for _ in range(2):
        awake = sleeper.call("free_memory")
        sleeper.call("sleep", name="s", level=1)
        asleep = sleeper.call("free_memory")
        assert asleep >= awake + KV_CACHE_BYTES
        sleeper.call("wake_up", name="s")
        assert asleep - sleeper.call("free_memory") >= KV_CACHE_BYTES
        assert sleeper.call("weight_addresses", name="s") == addresses
        assert generate() == expected


def test_weights_are_read_again_after_a_deep_sleep(
    sleeper: Worker, generate: Callable[[], Any], expected: list[list[int]]
) -> None:
    """What RL trainers do: weights first, then the cache."""
    sleeper.call("sleep", name="s", level=2)
    asleep = sleeper.call("free_memory")
    sleeper.call("wake_up", name="s", tags=["weights"])
    weights = asleep - sleeper.call("free_memory")
    assert 0 < weights < KV_CACHE_BYTES
    sleeper.call("reload_weights", name="s")
    sleeper.call("wake_up", name="s", tags=["kv_cache"])
    assert asleep - sleeper.call("free_memory") >= weights + KV_CACHE_BYTES
    assert generate() == expected


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"VLLM_ASCEND_PATCH_DISABLE": "worker.sleep_mode"}, "needs the patch worker.sleep_mode"),
        ({"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"}, "take expandable_segments:True out of"),
    ],
    ids=["patch off", "expandable segments"],
)
def test_it_is_refused_with_a_remedy(variables: dict[str, str], reason: str, tmp_path: Path, tiny_llama: str) -> None:
    process = Worker(tmp_path / "worker.log", **variables)
    try:
        with pytest.raises(WorkerError, match=reason):
            process.call("load", name="r", model=tiny_llama, skip_tokenizer_init=True, enable_sleep_mode=True)
    finally:
        process.close()


def test_a_server_sleeps_and_wakes_up(demo_model_folder: Path, tmp_path: Path) -> None:
    """The requests that trainers send between two rounds; vLLM has them in development mode only."""
    options = ["--served-model-name", "s", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager",
               "--kv-cache-memory-bytes", str(KV_CACHE_BYTES), "--enable-sleep-mode"]  # fmt: skip
    environment = {"VLLM_SERVER_DEV_MODE": "1", "XDG_RUNTIME_DIR": str(tmp_path)}
    body = {"model": "s", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
    with serve(demo_model_folder, tmp_path / "server.log", *options, **environment) as server:

        def answer() -> str:
            text: str = server.post("/v1/completions", body)["choices"][0]["text"]
            return text

        def asleep() -> bool:
            state: bool = json.loads(server.get("/is_sleeping"))["is_sleeping"]
            return state

        awake = answer()
        assert "Paris" in awake and not asleep()
        for _ in range(2):
            server.post("/sleep?level=1", {})
            assert asleep()
            server.post("/wake_up", {})
            assert not asleep() and answer() == awake
        # Weights that come from a trainer need no place for caches while they arrive.
        server.post("/sleep?level=2", {})
        server.post("/wake_up?tags=weights", {})
        assert asleep()
        server.post("/collective_rpc", {"method": "reload_weights"})
        server.post("/wake_up?tags=kv_cache", {})
        assert not asleep() and answer() == awake
    assert server.exit_code == 0
    assert complaints(server.log()) == []
