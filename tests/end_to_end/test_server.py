"""What clients of `vllm serve` rely on, with a real model: each answer is compared with one found another way."""

from __future__ import annotations

import json
import math
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm
from tests.end_to_end.server import Server, serve
from tests.end_to_end.worker import Worker, complaints

pytestmark = pytest.mark.engine_process
MODEL = "smollm2"
# Before, and without that option, a server that is told to end waits for an open stream whose engine has stopped: stock
# vLLM's CPU build of 0.32 does the same.
DRAINS = Version(installed_vllm()) >= Version("0.18.0")
TALE = (
    "the river carries a small boat past seven quiet towns while an old teacher counts stars and writes numbers into"
    " a blue book before rain comes over hills where sheep sleep"
)
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
    "required": ["name", "big"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, demo_model_folder: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    options = ["--served-model-name", MODEL, "--dtype", "float32", "--max-model-len", "512", "--enforce-eager",
               "--max-num-seqs", "64", "--kv-cache-memory-bytes", str(512 << 20),
               "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]  # fmt: skip
    if DRAINS:
        options += ["--shutdown-timeout", "60"]
    with serve(demo_model_folder, folder / "server.log", *options, XDG_RUNTIME_DIR=str(folder)) as running:
        yield running


def complete(server: Server, prompt: Any, count: int, **options: Any) -> dict[str, Any]:
    """The choices and the usage of one request; greedy unless the options say otherwise."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, **options}
    answer: dict[str, Any] = server.post("/v1/completions", body, timeout=600.0)
    return answer


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric over the engines, for these labels."""
    total = 0.0
    for line in server.get("/metrics").splitlines():
        found = re.match(rf"vllm:{name}\{{(.*)\}} (\S+)$", line)
        if found and all(f'{label}="{value}"' in found[1] for label, value in labels.items()):
            total += float(found[2])
    return total


def wait_for(server: Server, name: str, value: float, **labels: str) -> None:
    """Until a metric has a value; the engine's reach the server with a delay."""
    end = time.monotonic() + 60
    while (found := metric(server, name, **labels)) != value:
        assert time.monotonic() < end, f"{name} is {found} instead of {value}"
        time.sleep(0.2)


@pytest.mark.shows("two hundred requests at once")
def test_two_hundred_requests_at_once_are_answered_as_one_at_a_time(server: Server) -> None:
    words = TALE.split()
    requests = [
        (" ".join(words[(index + step) % len(words)] for step in range(1 + index * 7 % 40)), 2 + index % 3)
        for index in range(200)
    ]

    def ask(request: tuple[str, int]) -> str:
        prompt, count = request
        return str(complete(server, f"{prompt} .", count)["choices"][0]["text"])

    with ThreadPoolExecutor(200) as clients:
        together = list(clients.map(ask, requests))
    assert together == [ask(request) for request in requests]


@pytest.mark.shows("streaming, several answers, beam search")
def test_a_stream_has_what_the_whole_answer_has(server: Server) -> None:
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "ignore_eos": True,
            "logprobs": 3}  # fmt: skip
    whole = server.post("/v1/completions", body)
    events = list(server.stream("/v1/completions", {**body, "stream_options": {"include_usage": True}}))
    assert {name: whole["usage"][name] for name in events[-1]["usage"]} == events[-1]["usage"]
    choices = [event["choices"][0] for event in events[:-1]]
    assert len(choices) > 6
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    streamed = [value for choice in choices for value in choice["logprobs"]["token_logprobs"]]
    # The second time the prompt's blocks were cached, and sums have another order.
    assert streamed == pytest.approx(whole["choices"][0]["logprobs"]["token_logprobs"], abs=1e-4)


@pytest.mark.shows("streaming, several answers, beam search")
def test_several_answers_to_one_prompt(server: Server) -> None:
    sampled = {"n": 4, "temperature": 1.0, "seed": 11}
    first, second = (complete(server, "My favourite animal is", 8, **sampled) for _ in range(2))
    texts = [choice["text"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2, 3]
    assert len(set(texts)) > 1
    assert texts == [choice["text"] for choice in second["choices"]], "the seed decides"
    assert first["usage"]["completion_tokens"] == 32


def beams(worker: Worker, folder: Path, prompt: list[int], width: int, length: int) -> list[tuple[list[int], float]]:
    """The `width` best continuations, from transformers' logits: the plain definition."""
    found: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(length):
        wider = []
        for tokens, score in found:
            logits = worker.call("reference_logits", folder=str(folder), dtype="float32", tokens=prompt + tokens)[-1]
            top = max(logits)
            total = top + math.log(sum(math.exp(value - top) for value in logits))
            best = sorted(range(len(logits)), key=lambda token, row=logits: -row[token])[: 2 * width]  # type: ignore[misc]
            wider += [([*tokens, token], score + logits[token] - total) for token in best]
        found = sorted(wider, key=lambda beam: -beam[1])[:width]
    return found


@pytest.mark.shows("streaming, several answers, beam search")
def test_beam_search_finds_the_best_continuations(server: Server, worker: Worker, demo_model_folder: Path) -> None:
    prompt = server.post("/tokenize", {"model": MODEL, "prompt": "The three primary colours are"})["tokens"]
    expected = beams(worker, demo_model_folder, prompt, width=3, length=4)
    answer = complete(server, prompt, 4, use_beam_search=True, n=3)
    texts = [
        server.post("/detokenize", {"model": MODEL, "tokens": prompt + tokens})["prompt"] for tokens, _ in expected
    ]
    start = server.post("/detokenize", {"model": MODEL, "tokens": prompt})["prompt"]
    assert [start + choice["text"] for choice in answer["choices"]] == texts


@pytest.mark.shows("structured answers and tool calls by the server")
def test_answers_have_the_structure_that_was_asked_for(server: Server) -> None:
    question = [{"role": "user", "content": "Name a city."}]
    asked = {"model": MODEL, "messages": question, "temperature": 0, "max_tokens": 60}
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    by_schema = server.post("/v1/chat/completions", {**asked, "response_format": schema})
    found = json.loads(by_schema["choices"][0]["message"]["content"])
    assert set(found) == {"name", "big"} and isinstance(found["big"], bool)

    by_regex = complete(server, "The year is", 20, structured_outputs={"regex": "19[0-9]{2}"}, ignore_eos=False)
    assert re.fullmatch("19[0-9]{2}", by_regex["choices"][0]["text"])

    grammar = 'root ::= "yes" | "no" | "perhaps"'
    by_grammar = complete(server, "Is it late?", 20, structured_outputs={"grammar": grammar}, ignore_eos=False)
    assert by_grammar["choices"][0]["text"] in {"yes", "no", "perhaps"}

    tool = {"type": "function", "function": {"name": "look_up", "parameters": CITY, "strict": True}}
    choice = {"type": "function", "function": {"name": "look_up"}}
    called = server.post("/v1/chat/completions", {**asked, "max_tokens": 160, "tools": [tool], "tool_choice": choice})
    (call,) = called["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "look_up"
    assert set(json.loads(call["function"]["arguments"])) == {"name", "big"}


@pytest.mark.shows("abort, metrics, health, SIGTERM")
def test_metrics_count_tokens_and_a_client_that_leaves_is_an_abort(server: Server) -> None:
    wait_for(server, "num_requests_running", 0)
    tokens, prompts = metric(server, "generation_tokens_total"), metric(server, "prompt_tokens_total")
    usage = complete(server, "Snow is", 7)["usage"]
    wait_for(server, "generation_tokens_total", tokens + 7)
    wait_for(server, "prompt_tokens_total", prompts + usage["prompt_tokens"])
    assert server.get("/health") == ""

    stream = server.stream("/v1/completions", {"model": MODEL, "prompt": "A long story:", "max_tokens": 450,
                                               "ignore_eos": True, "temperature": 0})  # fmt: skip
    assert next(stream)["choices"][0]["text"]
    stream.close()
    wait_for(server, "num_requests_running", 0)
    assert metric(server, "generation_tokens_total") < tokens + 7 + 450, "it went on for nobody"
    assert complete(server, "Snow is", 7)["usage"] == usage


@pytest.mark.shows("abort, metrics, health, SIGTERM")
def test_sigterm_with_requests_in_flight_ends_cleanly(server: Server) -> None:
    """Last, for it ends the server: what was begun is answered, processes are gone, nothing complains."""
    body = {"model": MODEL, "prompt": "A long story:", "max_tokens": 60, "ignore_eos": True, "temperature": 0}
    stream = server.stream("/v1/completions", body)
    assert next(stream)["choices"][0]["text"]
    if not DRAINS:
        stream.close()
    before = len(server.log())
    server.stop(signal.SIGTERM)
    if DRAINS:
        assert [event["choices"][0]["finish_reason"] for event in stream if "choices" in event][-1] == "length"
    assert server.exit_code == 0, server.log()[before:]
    assert complaints(server.log()[before:]) == []
