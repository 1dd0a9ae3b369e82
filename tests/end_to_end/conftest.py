"""Engines for the end-to-end tests: few processes, each engine loaded once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.worker import Worker

Generate = Callable[..., list[dict[str, Any]]]


@dataclass
class Engine:
    """An `LLM` in a worker process."""

    worker: Worker
    name: str
    facts: dict[str, Any]

    def generate(self, prompts: list[Any], params: Any, **options: Any) -> list[dict[str, Any]]:
        """Results in the order of the prompts; see `engine_functions.describe` for their keys."""
        answers: list[dict[str, Any]] = self.worker.call(
            "generate", name=self.name, prompts=prompts, params=params, **options
        )
        return answers


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The process in which most engines live; it has to end without a complaint."""
    process = Worker(tmp_path_factory.mktemp("end-to-end") / "worker.log")
    yield process
    code = process.close()
    assert code == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(scope="session")
def engine(worker: Worker) -> Callable[..., Engine]:
    """`engine(model_folder, **options)`: load it, or give the one loaded before with the same options."""
    loaded: dict[str, Engine] = {}

    def get(model: Path | str, **options: Any) -> Engine:
        name = f"{model} {sorted(options.items())}"
        if name not in loaded:
            loaded[name] = Engine(worker, name, worker.call("load", name=name, model=str(model), **options))
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def tiny_llama(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama with two layers and random weights."""
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    worker.call("make_family", family="llama", folder=str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_engine(engine: Callable[..., Engine], tiny_llama: str) -> Callable[..., Engine]:
    """The small Llama in float32 with the given options."""

    def get(**options: Any) -> Engine:
        return engine(tiny_llama, dtype="float32", skip_tokenizer_init=True, **options)

    return get
