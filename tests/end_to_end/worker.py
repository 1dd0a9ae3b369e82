"""A Python process with the overlay in it, which runs functions for the tests.

vLLM, torch-npu and the overlay live in that process; pytest's own stays free of them. Requests and
answers are JSON lines; whatever the process prints goes to its log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from tests.end_to_end.preloaded import CHECKOUT, ForkedProcess, Preloaded, may_fork

# What a process says on its way out when something was not cleaned up.
COMPLAINTS = re.compile(
    r"Traceback \(most recent call last\)|Exception ignored|Segmentation fault|core dumped|Invalid process group"
    r"|leaked \w+ object|was not destroyed|has NOT been destroyed|terminate called|Fatal Python error|Aborted"
    r"|died unexpectedly|destroy_process_group"
)


class WorkerError(AssertionError):
    """The function raised, or its process died; the message has the other side's traceback or log."""


def overlay_environment(**changes: str) -> dict[str, str]:
    """The environment of a process that runs vLLM on hostcann. A change to "" removes a variable."""
    environment = {
        **os.environ,
        "VLLM_ASCEND_AUTOPATCH": "1",
        "ASCEND_PATCH_DEVICE": "host",
        "HOSTCANN_DEVICES": "4",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "INFO",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        # Other tests switch it off in the process that runs the tests.
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "",
        # A process that belongs to somebody's run says less.
        "ASCEND_PATCH_RUN": "",
        **changes,
    }
    return {name: value for name, value in environment.items() if value != ""}


# Stock vLLM's server says this as well when it is interrupted: its CPU build was asked.
STOCK_COMPLAINTS = re.compile(r"leaked semaphore objects|\[async_llm\.py:\d+\] Traceback")


def complaints(log: str) -> list[str]:
    """The lines of a log that tell of an unclean end."""
    return [line for line in log.splitlines() if COMPLAINTS.search(line) and not STOCK_COMPLAINTS.search(line)]


@lru_cache(maxsize=1)
def usual_environment() -> dict[str, str]:
    """`overlay_environment` when it was asked for first."""
    return overlay_environment()


@lru_cache(maxsize=1)
def preloaded() -> Preloaded:
    """The process of this test process from which workers fork."""
    return Preloaded(usual_environment())


def own(environment: dict[str, str], log: IO[str]) -> subprocess.Popen[bytes]:
    """A worker that starts from nothing."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.end_to_end.worker_main"],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # so that it can be killed with the processes it started
    )


class Worker:
    """One such process. `call` runs a function of `engine_functions` or of its siblings (`worker_main`) in it.

    As a context it leaves no process behind, also where a test fails in the middle.
    """

    def __init__(self, log_file: Path, **environment: str) -> None:
        self.log_file = log_file
        self._log = log_file.open("w", encoding="utf-8")
        variables = overlay_environment(**environment)
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if may_fork(usual_environment(), variables):
            self.process = preloaded().fork(variables, self._log.fileno())
        else:
            self.process = own(variables, self._log)
        self._buffer = b""
        self._closing_at = 0

    def call(self, function: str, timeout: float = 600.0, **arguments: Any) -> Any:
        """Run `function(**arguments)` there and return what it returns (JSON types).

        Raises:
            WorkerError: it raised, its process died, or the time was over.
        """
        assert self.process.stdin is not None
        request = json.dumps({"function": function, "arguments": arguments}).encode() + b"\n"
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"the worker process has died\n{self.log_tail()}") from None
        answer = json.loads(self._read_line(function, timeout))
        if "error" in answer:
            raise WorkerError(f"{function} raised in the worker:\n{answer['error']}")
        return answer["value"]

    def _read_line(self, function: str, timeout: float) -> bytes:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._kill()
                raise WorkerError(f"{function} took more than {timeout:.0f} s\n{self.log_tail()}")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                code = self.process.wait()
                raise WorkerError(f"the worker ended with code {code} during {function}\n{self.log_tail()}")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _kill(self) -> None:
        """End it and the engine processes that it has: an orphan would go on computing."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if self.process.returncode is None:
                self.close()
            return
        with contextlib.suppress(WorkerError):  # what went wrong before matters
            self.close()
        with contextlib.suppress(ProcessLookupError):
            self._kill()  # ranks of an engine that nobody unloaded

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def complaints(self) -> list[str]:
        """What the process complained about while it ended. (Before, vLLM logs tracebacks of warm-ups it forgoes.)"""
        return complaints(self.log()[self._closing_at :])

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def close(self, timeout: float = 60.0) -> int:
        """Let the process end by itself and return its exit code."""
        self._closing_at = len(self.log())
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._kill()
            self.process.wait()
            raise WorkerError(f"the worker did not end within {timeout:.0f} s\n{self.log_tail()}") from None
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()
            self._log.close()
        return code
