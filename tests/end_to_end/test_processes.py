"""The engine in a process of its own, and the OpenAI-compatible server in front of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Engine
from tests.end_to_end.server import serve
from tests.end_to_end.worker import Worker, complaints, overlay_environment
from tests.models.families import prompts

pytestmark = [pytest.mark.engine_process, pytest.mark.shows("vllm serve, engine processes")]
CLI = str(Path(sys.executable).with_name("ascend-patch"))
REFERENCES = json.loads((Path(__file__).parent / "data" / "smollm2_references.json").read_text())


def test_engine_core_in_its_own_process(tmp_path: Path, demo_model_folder: Path) -> None:
    """The spawned process patches itself: same answers, and nothing left behind at the end."""
    records = REFERENCES["answers"]["float32"][:3]
    params = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    worker = Worker(tmp_path / "worker.log", VLLM_ENABLE_V1_MULTIPROCESSING="1")
    try:
        worker.call("load", name="smollm", model=str(demo_model_folder), dtype="float32", max_model_len=1024)
        got = worker.call("generate", name="smollm", prompts=[record["prompt"] for record in records], params=params)
        worker.call("unload", name="smollm")
    finally:
        code = worker.close()
    assert [answer["token_ids"] for answer in got] == [record["token_ids"][:12] for record in records]
    assert code == 0, worker.log_tail()
    assert worker.complaints() == []


@pytest.mark.shows("torch-npu's task queue")
def test_launches_from_torch_npus_task_queue(
    tmp_path: Path, tiny_llama: str, tiny_engine: Callable[..., Engine]
) -> None:
    """On an NPU the queue is on unless switched off; its thread launches outside the caller's inference mode."""
    seeded = {"temperature": 1, "top_k": 20, "top_p": 0.9, "seed": 5, "max_tokens": 8, "detokenize": False}
    each = [{**seeded, "temperature": 0}, seeded]
    expected = tiny_engine().generate(prompts()[:2], each)
    queued = Worker(tmp_path / "worker.log", TASK_QUEUE_ENABLE="1")
    try:
        queued.call("load", name="tiny", model=tiny_llama, dtype="float32", skip_tokenizer_init=True)
        got = queued.call("generate", name="tiny", prompts=prompts()[:2], params=each)
    finally:
        code = queued.close()
    assert [answer["token_ids"] for answer in got] == [answer["token_ids"] for answer in expected]
    assert code == 0, queued.log_tail()
    assert queued.complaints() == []


def test_server(tmp_path: Path, demo_model_folder: Path) -> None:
    """Completions, chat, streaming, several clients at once, `status` over all processes, Ctrl-C."""
    options = ["--served-model-name", "smollm2", "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager",
               "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(256 << 20)]  # fmt: skip
    # Another vLLM may start on this machine meanwhile, and its run would be the newest one.
    runs = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with serve(demo_model_folder, tmp_path / "server.log", *options, **runs) as server:
        records = REFERENCES["answers"]["float32"][:4]
        greedy = {"model": "smollm2", "temperature": 0, "max_tokens": 12, "ignore_eos": True}

        def complete(record: dict[str, str]) -> str:
            answer = server.post("/v1/completions", {**greedy, "prompt": record["prompt"], "logprobs": 1})
            return str(answer["choices"][0]["text"])

        with ThreadPoolExecutor(4) as clients:
            texts = list(clients.map(complete, records))
        for text, record in zip(texts, records, strict=True):
            assert text
            assert record["text"].startswith(text)

        question = [{"role": "user", "content": "What is the capital of France?"}]
        body = {**greedy, "messages": question, "ignore_eos": False, "max_tokens": 24}
        whole = server.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
        pieces = [
            event["choices"][0]["delta"].get("content") or "" for event in server.stream("/v1/chat/completions", body)
        ]
        assert "Paris" in whole
        assert len(pieces) > 2
        assert "".join(pieces) == whole

        shown = subprocess.run([CLI, "status", "--json"], env=overlay_environment(**runs), cwd=tmp_path, timeout=60,
                               capture_output=True, text=True)  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        run = json.loads(shown.stdout)["runs"][0]
        assert run["alive"]
        assert run["agrees"]
        # Up to 0.17 the role of an engine's process tells its data-parallel rank, too.
        assert {"main", "EngineCore"} <= {process["role"].removesuffix("_DP0") for process in run["processes"]}
        running = len(server.log())
        server.stop()
    assert server.exit_code == 0, server.log()[running:]
    assert complaints(server.log()[running:]) == []
