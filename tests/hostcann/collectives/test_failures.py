"""Ranks that are killed, never come, or disagree: every other rank gets an error, and nothing stays behind."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Processes, free_port

BAD_PARAMETER, TIMEOUT, REMOTE = 1, 9, 21
TASK_TIMEOUT, TASK_EXCEPTION = 507048, 507049
Start = Callable[..., Processes]


def leftovers() -> set[str]:
    """What hostcann's ranks could leave behind on the machine."""
    sockets = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "hostcann" in line}
    return sockets | {str(path) for path in Path("/dev/shm").iterdir() if "hostcann" in path.name}


def sockets_named(name: str) -> int:
    return sum(line.endswith("/" + name) for line in Path("/proc/net/unix").read_text().splitlines())


@pytest.fixture
def start(build: Path) -> Iterator[Start]:
    """Starts ranks and, unless told otherwise, makes a communicator of them."""
    groups: list[Processes] = []
    before = leftovers()

    def begin(ranks: int, connect: bool = True, script: str = "abi_rank.py", **environment: str) -> Processes:
        of_torch = script == "torch_rank.py"
        group = Processes(script, ranks, str(free_port()) if of_torch else str(build), **environment)
        groups.append(group)
        if connect and not of_torch:
            root = group.results({"do": "root_info"}, [0])[0]
            assert [code for code, _ in group.results({"do": "init", "root": root})] == [0] * ranks
        return group

    try:
        yield begin
        for group in groups:
            group.stop()
        assert leftovers() <= before
    finally:
        for group in groups:
            for process in group.processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()


def test_a_killed_rank_is_an_error_on_the_others(start: Start) -> None:
    group = start(3)
    assert group.results({"do": "all_reduce", "values": [1] * 500_000}, [0, 1]) == [[0, ""]] * 2
    group.processes[2].kill()  # a zombie until the group is stopped: it counts as ended
    for code, message in group.results({"do": "sync"}, [0, 1]):
        assert code == TASK_EXCEPTION
        assert f"rank 2 (process {group.processes[2].pid}) has ended" in message
    assert group.results({"do": "async_error"}, [0, 1]) == [REMOTE] * 2
    for code, message in group.results({"do": "all_reduce", "values": [1]}, [0, 1]):
        assert code == REMOTE and "has ended" in message


def test_a_killed_rank_in_torch(start: Start) -> None:
    """The next read of the result raises; then torch-npu's watchdog, which asks for the error, ends the process."""
    group = start(2, script="torch_rank.py")
    group.ask({"case": "a_killed_rank", "dtype": "float32"})
    assert group.answers([0]) == [{"error": None}]
    assert group.processes[0].wait(60) == -signal.SIGABRT


def test_a_rank_that_was_killed_before_the_call(start: Start) -> None:
    group = start(2)
    group.processes[0].kill()
    assert group.results({"do": "barrier"}, [1]) == [[0, ""]]
    assert group.results({"do": "sync"}, [1])[0][0] == TASK_EXCEPTION


def test_what_a_rank_sent_before_it_ended_arrives(start: Start) -> None:
    group = start(2)
    assert group.results({"do": "broadcast", "values": [3, 4], "dtype": "int8"}, [0]) == [[0, ""]]
    assert group.results({"do": "sync"}, [0]) == [[0, ""]]
    group.processes[0].kill()
    group.processes[0].wait()
    assert group.results({"do": "broadcast", "values": [0, 0], "dtype": "int8"}, [1]) == [[0, ""]]
    assert group.results({"do": "sync"}, [1]) == [[0, ""]]
    assert group.results({"do": "read"}, [1]) == [[3, 4]]


def test_a_rank_that_destroyed_its_communicator(start: Start) -> None:
    group = start(2)
    assert group.results({"do": "destroy"}, [0]) == [[0, ""]]
    assert group.results({"do": "barrier"}, [1]) == [[0, ""]]
    code, message = group.results({"do": "sync"}, [1])[0]
    assert code == TASK_EXCEPTION and "rank 0 has destroyed the communicator" in message


def test_a_rank_that_does_not_call(start: Start) -> None:
    group = start(2, HCCL_EXEC_TIMEOUT="1")
    assert group.results({"do": "barrier"}, [0]) == [[0, ""]]
    code, message = group.results({"do": "sync"}, [0])[0]
    assert code == TASK_TIMEOUT and "EI0002" in message and "nothing came from rank 1 for 1 s" in message
    assert group.results({"do": "async_error"}) == [REMOTE] * 2


def test_two_sends_wait_for_their_receives(start: Start) -> None:
    """As documented, a send ends with its receive: what works only because of a buffer must not work here."""
    group = start(2, HCCL_EXEC_TIMEOUT="1")
    for rank in (0, 1):
        group.ask({"do": "send", "values": [1.0], "peer": 1 - rank}, [rank])
    assert [answer["result"] for answer in group.answers()] == [[0, ""]] * 2
    assert {code for code, _ in group.results({"do": "sync"})} <= {TASK_TIMEOUT, TASK_EXCEPTION}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"do": "all_reduce", "values": [1, 2]}, {"do": "all_reduce", "values": [1]}, "count 1"),
        ({"do": "all_reduce", "values": [1]}, {"do": "all_reduce", "values": [1], "dtype": "int32"}, "type int32"),
        ({"do": "all_reduce", "values": [1]}, {"do": "all_reduce", "values": [1], "op": 2}, "op 2"),
        ({"do": "barrier"}, {"do": "all_gather", "values": [1], "dtype": "int8"}, "HcclAllGather"),
        ({"do": "receive", "count": 2, "peer": 1}, {"do": "send", "values": [1], "peer": 0}, "count 1"),
    ],
)
def test_ranks_that_disagree(start: Start, first: dict[str, Any], second: dict[str, Any], words: str) -> None:
    group = start(2)
    group.ask(first, [0])
    group.ask(second, [1])
    assert [answer["result"] for answer in group.answers()] == [[0, ""]] * 2
    for code, message in group.results({"do": "sync"}):
        assert code == TASK_EXCEPTION and "EI0005" in message and words in message


def test_a_rank_that_never_joins(start: Start) -> None:
    group = start(3, connect=False, HOSTCANN_CONNECT_TIMEOUT="1")
    root = group.results({"do": "root_info"}, [0])[0]
    for code, message in group.results({"do": "init", "root": root}, [0, 2]):
        assert code == TIMEOUT and "EI0006: rank 1 did not join within 1 s" in message


def test_a_rank_that_ends_while_others_wait_for_more(start: Start) -> None:
    group = start(3, connect=False)
    root = group.results({"do": "root_info"}, [0])[0]
    group.ask({"do": "init", "root": root}, [0, 1])
    end = time.monotonic() + 60
    while time.monotonic() < end and sockets_named(root) < 2:  # the host's own, and its end of the guest's
        time.sleep(0.02)
    group.processes[1].kill()
    code, message = group.answers([0])[0]["result"]
    assert code == REMOTE and "a rank ended while the communicator was being created" in message


def test_ranks_that_disagree_about_their_number(start: Start) -> None:
    group = start(2, connect=False)
    root = group.results({"do": "root_info"}, [0])[0]
    group.ask({"do": "init", "root": root}, [0])
    group.ask({"do": "init", "root": root, "ranks": 3}, [1])
    for answer in group.answers():
        code, message = answer["result"]
        assert code == BAD_PARAMETER and "rank 1 joins a communicator of 3 ranks, others one of 2" in message


@pytest.mark.parametrize(
    ("variable", "value"), [("HCCL_CONNECT_TIMEOUT", "119"), ("HCCL_EXEC_TIMEOUT", "-1"), ("HCCL_EXEC_TIMEOUT", "1s")]
)
def test_values_that_the_documentation_does_not_allow(start: Start, variable: str, value: str) -> None:
    group = start(2, connect=False, **{variable: value})
    root = group.results({"do": "root_info"}, [0])[0]
    code, message = group.results({"do": "init", "root": root}, [0])[0]
    assert code == BAD_PARAMETER and f"EI0001: {variable}={value} must be an integer" in message


def test_nothing_stays_when_all_are_killed(start: Start) -> None:
    group = start(3)
    assert group.results({"do": "all_reduce", "values": [1] * 500_000}, [0, 1]) == [[0, ""]] * 2
    for process in group.processes:
        process.kill()
    for process in group.processes:
        process.wait()
    # the fixture looks for what is left
