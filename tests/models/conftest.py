"""One process for the engines of all families, one for transformers: each engine costs seconds, a process many more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.worker import Worker


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process with the overlay; its end is part of the test."""
    # DeepSeek's attention over whole keys and values: the patches have no backend for latent ones.
    process = Worker(tmp_path_factory.mktemp("models") / "worker.log", VLLM_MLA_DISABLE="1")
    yield process
    code = process.close()
    assert code == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process for transformers alone: vLLM decorates transformers' own classes where it falls back to them."""
    process = Worker(tmp_path_factory.mktemp("reference") / "worker.log")
    yield process
    assert process.close() == 0, process.log_tail()


@pytest.fixture(scope="module")
def family_folder(reference: Worker, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The saved model of a family, made on first use."""
    base = tmp_path_factory.mktemp("families")
    made: dict[str, str] = {}

    def folder(family: str) -> str:
        if family not in made:
            path: Path = base / family
            reference.call("make_family", family=family, folder=str(path))
            made[family] = str(path)
        return made[family]

    return folder


@pytest.fixture(scope="module")
def engine(worker: Worker) -> Iterator[Callable[..., str]]:
    """The name of the engine of a checkpoint. All stay until the end: the first one takes seconds to come and to go."""
    loaded = []

    def name(folder: str, **options: Any) -> str:
        name = f"{folder} {sorted(options.items())}"
        if name not in loaded:
            worker.call("load", name=name, model=folder, skip_tokenizer_init=True, **options)
            loaded.append(name)
        return name

    yield name
    for name in loaded:
        worker.call("unload", name=name)
