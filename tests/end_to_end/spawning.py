"""What a worker spawns forks from a copy of the worker that has not imported vLLM yet.

`multiprocessing` would start an interpreter, and load torch, torch-npu and transformers anew, for each rank of each
engine: most of what a test with two devices takes. Everything from `import vllm` on happens in the new process, as it
does after a real spawn. Servers, and workers whose environment is another one, spawn as usual.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import socket
import sys
import threading
from multiprocessing import spawn, util
from typing import Any

from tests.end_to_end.preloaded import as_bytes, receive, receive_number

PR_SET_CHILD_SUBREAPER = 36
START = re.compile(r"spawn_main\(tracker_fd=(\d+), pipe_handle=(\d+)\)")
spawned_as_usual = util.spawnv_passfds


def fork_what_is_spawned() -> None:
    """From now on processes that this one spawns fork from a copy of it, as it is now.

    Their parent is this process, as always: it adopts what the copy leaves behind. Returns in this process only.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        os.dup2(2, 1)  # whoever reads the worker's answers must see their end when the worker ends
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if (given := _serve(theirs)) is None:
            os._exit(0)
        theirs.close()
        fork_what_is_spawned()
        spawn.spawn_main(**given)  # ends this process
    theirs.close()
    one_at_a_time = threading.Lock()

    def spawn_or_fork(path: str, arguments: list[Any], descriptors: list[int]) -> int:
        start = next(filter(None, map(START.search, map(os.fsdecode, arguments))), None)
        if start is None:
            return spawned_as_usual(path, arguments, descriptors)
        tracker, pipe = map(int, start.groups())
        request = {
            "start": {"tracker_fd": tracker, "pipe_handle": pipe},
            "descriptors": descriptors,
            "environment": dict(os.environ),
        }
        data = json.dumps(request).encode()
        with one_at_a_time:  # vLLM 0.33 starts the ranks of an engine from several threads
            ours.sendall(as_bytes(len(data)))
            socket.send_fds(ours, [data[:1]], descriptors)
            ours.sendall(data[1:])
            return receive_number(ours)

    util.spawnv_passfds = spawn_or_fork


def _serve(control: socket.socket) -> dict[str, int] | None:
    """Fork for each request; what `spawn_main` is to get in a new process, None once nobody can ask any more."""
    while len(head := receive(control, 8)) == 8:
        first, received, _, _ = socket.recv_fds(control, 1, 200)
        request = json.loads(first + receive(control, int.from_bytes(head, "little") - 1))
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            if pid := os.fork():
                os.write(writing, as_bytes(pid))
                os._exit(0)
            control.close()
            os.close(reading)
            os.close(writing)
            _take_over(received, request["descriptors"], request["environment"])
            start: dict[str, int] = request["start"]
            return start
        os.close(writing)
        for descriptor in received:
            os.close(descriptor)
        os.waitpid(between, 0)  # only now the new process is the worker's child
        control.sendall(os.read(reading, 8))
        os.close(reading)
    return None


def _take_over(received: list[int], numbers: list[int], environment: dict[str, str]) -> None:
    """Give the files the numbers that they have in the process which spawns, and take over its environment."""
    beyond = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, max(numbers) + 1) for descriptor in received]
    for descriptor in received:
        os.close(descriptor)
    for descriptor, number in zip(beyond, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", "--multiprocessing-fork"]
