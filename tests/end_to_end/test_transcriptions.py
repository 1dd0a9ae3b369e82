"""Whisper behind `vllm serve`: what its endpoints for recordings answer is what `LLM` generates."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm
from tests.end_to_end.server import Server, serve
from tests.end_to_end.worker import Worker, complaints
from tests.models import hearing

MODEL = "whisper"
LONGEST = 40
# What vLLM's own extra for sounds reads recordings with; with librosa up to 0.18.
READER = "soundfile" if Version(installed_vllm()) >= Version("0.19") else "librosa"
pytestmark = [
    pytest.mark.engine_process,
    pytest.mark.shows("transcriptions and translations by the server"),
    pytest.mark.skipif(find_spec(READER) is None, reason=f"vLLM's extra for sounds ({READER}) is not installed"),
]


@pytest.fixture(scope="module")
def folder(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("models") / MODEL)
    worker.call("make_hearing_for_a_server", folder=path)
    return path


@pytest.fixture(scope="module")
def server(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("server")
    options = ["--served-model-name", MODEL, "--dtype", "float32", "--enforce-eager", "--max-model-len", str(LONGEST),
               "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(64 << 20)]  # fmt: skip
    with serve(folder, path / "server.log", *options, XDG_RUNTIME_DIR=str(path)) as running:
        yield running
        # Up to 0.23 vLLM writes down how a recording that is none failed.
        before = len(running.log())
    assert running.exit_code == 0
    assert complaints(running.log()[before:]) == []


class Generated:
    """The texts that `LLM` generates for recordings and the server's prompts."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def texts(self, *asked: tuple[int, str, str], before: str = "") -> list[str]:
        """For seeds, languages and tasks."""
        prompts = [
            {"text": f"{before}<|startoftranscript|><|{language}|><|{task}|><|notimestamps|>", "recording": seed}
            for seed, language, task in asked
        ]
        params = {"temperature": 0, "max_tokens": LONGEST}
        return [answer["text"] for answer in self.worker.call("look", name=MODEL, prompts=prompts, params=params)]

    def language(self, seed: int) -> str:
        """What the model takes a recording's language for."""
        found: str = self.worker.call("language_of", name=MODEL, recording=seed)
        return found


@pytest.fixture(scope="module")
def generated(worker: Worker, folder: str) -> Iterator[Generated]:
    options = {"dtype": "float32", "max_model_len": LONGEST, "mm_processor_cache_gb": 0}
    worker.call("load", name=MODEL, model=folder, **options)
    yield Generated(worker)
    worker.call("unload", name=MODEL)


def ask(server: Server, path: str, seed: int, **fields: str) -> Any:
    fields = {"model": MODEL, "temperature": "0", **fields}
    return server.upload(f"/v1/audio/{path}", hearing.recording(seed), **fields)


def test_transcriptions_at_once_are_what_is_generated(server: Server, generated: Generated) -> None:
    expected = generated.texts(*((seed, "en", "transcribe") for seed in range(6)))
    assert len(set(expected)) == 6 and all(text.count(" w") > 8 for text in expected)
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda seed: ask(server, "transcriptions", seed, language="en"), range(6)))
    assert [answer["text"] for answer in answers] == expected


def test_language_task_and_prompt_count(server: Server, generated: Generated) -> None:
    plain, german, translated = generated.texts(
        (1, "en", "transcribe"), (1, "de", "transcribe"), (1, "de", "translate")
    )
    (prompted,) = generated.texts((1, "en", "transcribe"), before="<|prev|>w1 w2")
    assert len({plain, german, translated, prompted}) == 4
    assert ask(server, "transcriptions", 1, language="de")["text"] == german
    assert ask(server, "translations", 1, language="de")["text"] == translated
    assert ask(server, "transcriptions", 1, language="en", prompt="w1 w2")["text"] == prompted


def test_a_streamed_transcription(server: Server, generated: Generated) -> None:
    (expected,) = generated.texts((2, "en", "transcribe"))
    fields = {"model": MODEL, "temperature": "0", "language": "en"}
    events = server.upload_for_a_stream("/v1/audio/transcriptions", hearing.recording(2), **fields)
    pieces = [event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]]
    assert len([piece for piece in pieces if piece]) > 8 and "".join(pieces) == expected


def test_a_language_that_has_to_be_found(server: Server, generated: Generated) -> None:
    """vLLM asks the model for it, as of 0.17; before, it takes English."""
    found = ask(server, "transcriptions", 3)["text"]
    language = generated.language(3) if Version(installed_vllm()) >= Version("0.17") else "en"
    assert found == generated.texts((3, language, "transcribe"))[0]


def test_what_is_no_recording_is_refused(server: Server) -> None:
    # Older ones (0.13 and 0.14 were seen) hand on what the reader says, as an error of the server.
    with pytest.raises(AssertionError, match=r"Invalid or unsupported audio file|Format not recognised"):
        server.upload("/v1/audio/transcriptions", b"no sound", model=MODEL, language="en")
