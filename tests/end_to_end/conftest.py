"""Engines for the end-to-end tests: few processes, each engine loaded once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from ascend_patch.engine import registry
from ascend_patch.engine.contract_building import variant_for
from ascend_patch.engine.registry import references
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


def engines(worker: Worker) -> Callable[..., Engine]:
    """`get(model_folder, **options)`: load it in `worker`, or give the one loaded before with the same options."""
    loaded: dict[str, Engine] = {}

    def get(model: Path | str, **options: Any) -> Engine:
        name = f"{model} {sorted(options.items())}"
        if name not in loaded:
            loaded[name] = Engine(worker, name, worker.call("load", name=name, model=str(model), **options))
        return loaded[name]

    return get


def make_llama(worker: Worker, base: Path) -> str:
    """A Llama with two layers and random weights."""
    folder = base / "llama"
    worker.call("make_family", family="llama", folder=str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def engine(worker: Worker) -> Callable[..., Engine]:
    """`engines` of the process in which most live."""
    return engines(worker)


@pytest.fixture(scope="session")
def tiny_llama(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`make_llama` for that process."""
    return make_llama(worker, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_engine(engine: Callable[..., Engine], tiny_llama: str) -> Callable[..., Engine]:
    """The small Llama in float32 with the given options."""
    return partial(engine, tiny_llama, dtype="float32", skip_tokenizer_init=True)


def skip_before(release: str, feature: str) -> None:
    """Skip the test of what vLLM itself has from `release` on."""
    if Version(installed_vllm()) < Version(release):
        pytest.skip(f"vLLM has {feature} since {release}, not in {installed_vllm()}")


def skip_from(release: str, reason: str) -> None:
    """Skip the test of what vLLM does before `release` alone."""
    if Version(installed_vllm()) >= Version(release):
        pytest.skip(f"vLLM {installed_vllm()} {reason}")


def drafting_environment() -> dict[str, str]:
    """What a worker needs for drafts: up to 0.13 an engine in the caller's own process never asks for them."""
    return {} if Version(installed_vllm()) >= Version("0.14.0") else {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}


def kernel_patches() -> list[str]:
    """The patches whose functions call kernels."""
    return [
        patch.id
        for patch in registry.load()
        if any(
            "._kernels:" in text for item in patch.variants for rewrite in item.rewrites for text in references(rewrite)
        )
    ]


@pytest.fixture(scope="session")
def kernels_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process in which every patch that calls a kernel is switched off."""
    log = tmp_path_factory.mktemp("kernels-off") / "worker.log"
    process = Worker(log, VLLM_ASCEND_PATCH_DISABLE=",".join(kernel_patches()))
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(scope="session")
def missing_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process in which the patches are on and no kernel can be loaded."""
    log = tmp_path_factory.mktemp("kernels-missing") / "worker.log"
    process = Worker(log, ASCEND_PATCH_KERNELS="0")
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


def installed_vllm() -> str:
    """The release, without the suffix of a build."""
    return version("vllm").partition("+")[0]


def has_rewrites(patch_id: str) -> bool:
    """Whether a patch changes something in the installed vLLM."""
    (patch,) = (patch for patch in registry.load() if patch.id == patch_id)
    variant = variant_for(patch.variants, installed_vllm())
    return variant is not None and bool(variant.rewrites)


def skip_without(patch_id: str) -> None:
    """Skip the test where a patch changes nothing in the installed vLLM: what it is about is not there."""
    if not has_rewrites(patch_id):
        (patch,) = (patch for patch in registry.load() if patch.id == patch_id)
        installed = installed_vllm()
        pytest.skip(f"{patch_id} covers vLLM {', '.join(item.versions for item in patch.variants)}, not {installed}")
