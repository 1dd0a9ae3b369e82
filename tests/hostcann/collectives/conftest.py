"""Groups of processes, one process per rank, each on a device of hostcann of its own."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
ANSWER_SECONDS = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """The ranks of one group. Every request goes to all (or some) of them, and each answers with one JSON line."""

    def __init__(self, script: str, ranks: int, *arguments: str, **environment: str) -> None:
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT / "packaging" / "editable"), os.environ.get("PYTHONPATH", "")]),
            "HOSTCANN_DEVICES": str(ranks),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(HERE / script), str(rank), str(ranks), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
            )
            for rank in range(ranks)
        ]
        self._errors = [b"" for _ in self.processes]
        self._broken = ""

    def ask(self, request: dict[str, Any], ranks: list[int] | None = None) -> None:
        for rank in range(len(self.processes)) if ranks is None else ranks:
            stream = self.processes[rank].stdin
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # the answer will say so
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()

    def answers(self, ranks: list[int] | None = None, seconds: float = ANSWER_SECONDS) -> list[Any]:
        """One answer of each rank; the test fails if one ends or stays silent."""
        wanted = list(range(len(self.processes))) if ranks is None else ranks
        found: dict[int, Any] = {}
        pending = dict.fromkeys(wanted, b"")
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for rank in wanted:
                selector.register(self.processes[rank].stdout, selectors.EVENT_READ, (rank, True))  # type: ignore[arg-type]
            for rank, process in enumerate(self.processes):
                if process.stderr is not None and not process.stderr.closed:
                    selector.register(process.stderr, selectors.EVENT_READ, (rank, False))
            while len(found) < len(wanted):
                ready = selector.select(max(0.0, end - time.monotonic()))
                if not ready:
                    self._fail(f"no answer of rank {sorted(set(wanted) - set(found))} after {seconds:.0f} s")
                for key, _ in ready:
                    rank, is_answer = key.data
                    chunk = os.read(key.fd, 1 << 16)
                    if not is_answer:
                        self._errors[rank] += chunk
                        if not chunk:
                            selector.unregister(key.fileobj)
                        continue
                    if not chunk:
                        self._fail(f"rank {rank} has ended with {self.processes[rank].wait()}")
                    pending[rank] += chunk
                    if pending[rank].endswith(b"\n"):
                        found[rank] = json.loads(pending[rank])
                        selector.unregister(key.fileobj)
        return [found[rank] for rank in wanted]

    def _fail(self, reason: str) -> None:
        text = "\n".join(f"--- rank {rank}\n{text.decode()[-1500:]}" for rank, text in enumerate(self._errors))
        self._broken = f"{reason}\n{text}"
        self.stop()
        pytest.fail(self._broken, pytrace=False)

    def run(self, request: dict[str, Any]) -> None:
        """Asks all ranks and fails with the first error."""
        if self._broken:
            pytest.fail(f"the group broke down before: {self._broken}", pytrace=False)
        self.ask(request)
        errors = [answer["error"] for answer in self.answers() if answer["error"]]
        if errors:
            self._broken = errors[0]  # the ranks are no longer at the same place
            pytest.fail(errors[0], pytrace=False)

    def results(self, request: dict[str, Any], ranks: list[int] | None = None) -> list[Any]:
        """Asks all (or some) ranks; what they answered, or a failed test if one of them could not."""
        self.ask(request, ranks)
        answers = self.answers(ranks)
        for answer in answers:
            assert answer["error"] is None, answer["error"]
        return [answer["result"] for answer in answers]

    def stop(self) -> None:
        for process in self.processes:
            with contextlib.suppress(BrokenPipeError):
                if process.stdin is not None:
                    process.stdin.close()
        end = time.monotonic() + 20
        for process in self.processes:
            try:
                process.wait(max(0.1, end - time.monotonic()) if not self._broken else 0.1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture(scope="module")
def build() -> Path:
    """The folder with hostcann's libraries."""
    from ascend_patch.hostcann import _build

    return _build.build()


@pytest.fixture(
    scope="module",
    params=[2, 4, pytest.param(8, marks=pytest.mark.slow)],
    ids=lambda ranks: f"{ranks}-ranks",
)
def torch_ranks(request: pytest.FixtureRequest, build: Path) -> Iterator[Processes]:
    """One group per number of ranks: it runs all cases."""
    group = Processes("torch_rank.py", request.param, str(free_port()))
    yield group
    group.stop()
