"""Worker processes that fork from one which has loaded everything below vLLM: half of a worker's start.

vLLM itself, and with it every patch, is loaded in the worker. A worker whose environment differs from the forking
process's in something that is read earlier gets a process of its own (`Worker` decides by `may_fork`).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

CHECKOUT = Path(__file__).resolve().parents[2]
# What vLLM's modules import, dearest first. What a version of vLLM does not bring is left out.
BELOW_VLLM = (
    *("torch._inductor.standalone_compile", "torch._inductor.lowering", "torch_npu", "transformers"),
    *("transformers.generation", "torch.distributed.fsdp"),
    *("openai.types.chat", "openai.types.responses", "openai_harmony", "fastapi", "aiohttp", "compressed_tensors"),
    *("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "xgrammar", "llguidance"),
    *("sympy", "prometheus_client", "tiktoken", "uvloop", "zmq.asyncio", "numba", "depyf", "torchvision"),
)
# Variables that vLLM and the overlay read after `import vllm`, or that concern pytest alone.
READ_LATER = frozenset(
    {
        *("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_MLA_DISABLE", "VLLM_USE_V2_MODEL_RUNNER"),
        *("VLLM_ASCEND_PATCH_DISABLE", "VLLM_ASCEND_PATCH_ENABLE", "ASCEND_PATCH_KERNELS"),
        *("VLLM_DP_SIZE", "VLLM_DP_RANK", "VLLM_DP_RANK_LOCAL", "VLLM_DP_MASTER_IP", "VLLM_DP_MASTER_PORT"),
        *("VLLM_ASCEND_PATCH_INTEGER_FORMAT", "VLLM_ASCEND_PATCH_MOE_EXCHANGE"),
        *("XDG_RUNTIME_DIR", "PYTEST_CURRENT_TEST"),
    }
)

STARTED_WITH = dict(os.environ)


def may_fork(given: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether processes with these environments are the same up to `import vllm`."""
    return {name for name in {*given, *wanted} if given.get(name) != wanted.get(name)} <= READ_LATER


class ForkedProcess:
    """The part of `subprocess.Popen` that `Worker` needs, for a process that is another one's child."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes], status: socket.socket) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._status = status
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or the signal that ended it as a negative number.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            self.returncode = receive_number(self._status)
            self._status.close()
        return self.returncode


class Preloaded:
    """This side of the process from which workers fork."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.preloaded", str(theirs.fileno())],
            cwd=CHECKOUT, env=dict(environment), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        atexit.register(self.close)

    def close(self) -> None:
        self._control.close()
        self._process.wait(30)

    def fork(self, environment: Mapping[str, str], log: int) -> ForkedProcess:
        """A worker with that environment, its standard error in the open file `log`."""
        to_child, from_child = os.pipe(), os.pipe()
        status, theirs = socket.socketpair()
        request = json.dumps(dict(environment)).encode()
        given = [to_child[0], from_child[1], log, theirs.fileno()]
        self._control.sendall(len(request).to_bytes(8, "little"))
        socket.send_fds(self._control, [request[:1]], given)
        self._control.sendall(request[1:])
        for descriptor in given[:2]:
            os.close(descriptor)
        theirs.close()
        return ForkedProcess(
            receive_number(status), os.fdopen(to_child[1], "wb"), os.fdopen(from_child[0], "rb"), status
        )


def receive(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := control.recv(size - len(data))):
        data += piece
    return data


def as_bytes(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def receive_number(sender: socket.socket) -> int:
    """What `as_bytes` was sent.

    Raises:
        RuntimeError: the other side has ended without it.
    """
    data = receive(sender, 8)
    if len(data) < 8:
        raise RuntimeError("the process from which workers fork has ended; what it said is above")
    return int.from_bytes(data, "little", signed=True)


def serve(control: socket.socket) -> bool:
    """Fork a worker for each request. True in a worker, False once nobody can ask any more."""
    while len(head := receive(control, 8)) == 8:
        first, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        request = first + receive(control, int.from_bytes(head, "little") - 1)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            become_worker(json.loads(request), descriptors)
            return True
        for descriptor in descriptors:
            os.close(descriptor)
    return False


def become_worker(environment: dict[str, str], descriptors: list[int]) -> None:
    """Fork once more: the parent reports process id and exit code, the child returns with its files in place."""
    child_input, child_output, log, status = descriptors
    if pid := os.fork():
        for descriptor in (child_input, child_output, log):
            os.close(descriptor)
        os.write(status, as_bytes(pid))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        # Nobody listens if the tests were interrupted.
        with contextlib.suppress(BrokenPipeError):
            os.write(status, as_bytes(code))
        os._exit(0)
    os.close(status)
    os.setsid()
    # What loading has set (hostcann's own variables) stays.
    for name in STARTED_WITH.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    for number, descriptor in enumerate((child_input, child_output, log)):
        os.dup2(descriptor, number)
        os.close(descriptor)


def load() -> None:
    for name in BELOW_VLLM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not any(name.partition(".")[0] == "vllm" for name in sys.modules), "vLLM belongs into the workers"
    # vLLM collects garbage ten times while an engine starts; what is loaded here is none.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    # Who waits for a worker is its parent; this process wants to hear of none.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    load()
    if serve(socket.socket(fileno=int(sys.argv[1]))):
        from tests.end_to_end import spawning, worker_main

        spawning.fork_what_is_spawned()
        worker_main.main()
