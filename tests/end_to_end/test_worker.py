"""The processes that the other end-to-end tests rely on: a forked one is as good as one that starts from nothing."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.preloaded import ForkedProcess
from tests.end_to_end.worker import Worker, WorkerError

pytestmark = pytest.mark.engine_process


@pytest.fixture(params=[True, False], ids=["forked", "own"])
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Worker]:
    """A worker without its kernels; what hostcann reads at its start keeps a worker from being forked."""
    early = {} if request.param else {"HOSTCANN_STREAMS": "check"}
    worker = Worker(tmp_path / "worker.log", ASCEND_PATCH_KERNELS="0", VLLM_LOGGING_LEVEL="INFO", **early)
    assert isinstance(worker.process, ForkedProcess if request.param else subprocess.Popen)
    yield worker
    if worker.process.returncode is None:
        worker.close()


def test_it_has_its_environment_and_no_vllm_yet(process: Worker) -> None:
    facts = process.call("facts_of_the_process")
    assert facts["kernels"] == "0"
    assert facts["vllm_modules"] == []
    assert facts["group_leader"], "its processes end with it"


def test_it_ends_by_itself(process: Worker) -> None:
    assert process.close() == 0
    assert process.complaints() == []


def test_a_death_is_reported(process: Worker) -> None:
    process.call("facts_of_the_process")
    process._kill()
    assert process.process.wait(30) == -signal.SIGKILL
    with pytest.raises(WorkerError, match=r"died|ended with code -9"):
        process.call("facts_of_the_process")


def test_a_variable_that_is_read_early_is_seen(tmp_path: Path) -> None:
    """Nothing is forked from a process that had read another value."""
    worker = Worker(tmp_path / "worker.log", HOSTCANN_SOC="Ascend310P3")
    try:
        assert worker.call("facts_of_the_process")["soc"] == "Ascend310P3"
    finally:
        assert worker.close() == 0
