"""libhccl called directly: what torch-npu does not use, codes and messages of refused calls, the trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Processes

BAD_PARAMETER, NOT_SUPPORTED, OPEN_FILE = 1, 5, 10
SUM, PROD = 0, 1


@pytest.fixture(scope="module")
def ranks(build: Path) -> Iterator[Processes]:
    """Three ranks with a communicator."""
    group = Processes("abi_rank.py", 3, str(build))
    root = group.results({"do": "root_info"}, [0])[0]
    assert [code for code, _ in group.results({"do": "init", "root": root})] == [0, 0, 0]
    yield group
    group.stop()


def run(ranks: Processes, requests: Callable[[int], dict[str, Any]]) -> list[Any]:
    """Every rank makes its call, all wait for it; the target buffers."""
    for rank in range(3):
        ranks.ask(requests(rank), [rank])
    codes = [answer["result"] for answer in ranks.answers()]
    assert codes == [[0, ""]] * 3, codes
    assert ranks.results({"do": "sync"}) == [[0, ""]] * 3
    return ranks.results({"do": "read"})


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float64", "int8"])
def test_types_without_a_torch_counterpart_move(ranks: Processes, dtype: str) -> None:
    found = run(ranks, lambda rank: {"do": "all_gather", "values": [rank, 100 + rank], "dtype": dtype})
    assert found == [[0, 100, 1, 101, 2, 102]] * 3


def test_all_gather_with_different_counts(ranks: Processes) -> None:
    counts, places = [1, 3, 2], [7, 0, 4]
    found = run(
        ranks,
        lambda rank: {
            "do": "all_gather_v",
            "values": [10 * rank + i for i in range(counts[rank])],
            "counts": counts,
            "displacements": places,
        },
    )
    wanted = [10, 11, 12, -1, 20, 21, -1, 0, *[-1] * 8]
    assert found == [wanted] * 3


def test_reduce_scatter_with_different_counts(ranks: Processes) -> None:
    counts, places = [1, 3, 2], [5, 0, 3]
    found = run(
        ranks,
        lambda rank: {
            "do": "reduce_scatter_v",
            "values": [10**rank * i for i in range(6)],
            "counts": counts,
            "displacements": places,
        },
    )
    assert found == [[555], [0, 111, 222], [333, 444]]


def test_all_to_all_from_a_matrix(ranks: Processes) -> None:
    matrix = [[1, 0, 2], [3, 1, 0], [0, 2, 2]]
    found = run(
        ranks,
        lambda rank: {
            "do": "all_to_all_vc",
            "values": [100 * rank + i for i in range(sum(matrix[rank]))],
            "matrix": matrix,
        },
    )
    assert found == [[0, 100, 101, 102], [103, 200, 201], [1, 2, 202, 203]]


@pytest.mark.parametrize("how", ["batch", "group"])
@pytest.mark.parametrize("count", [5, 200_000])
def test_both_directions_at_once(ranks: Processes, how: str, count: int) -> None:
    for rank in (0, 2):
        ranks.ask({"do": "exchange", "values": [rank + 1] * count, "peer": 2 - rank, "how": how}, [rank])
    assert [answer["result"] for answer in ranks.answers([0, 2])] == [[0, ""]] * 2
    assert ranks.results({"do": "sync"}, [0, 2]) == [[0, ""]] * 2
    assert ranks.results({"do": "read"}, [0, 2]) == [[3.0] * count, [1.0] * count]


def test_communicators_split_from_another(ranks: Processes) -> None:
    """Ranks 2 and 0, in this order; rank 1 takes no part."""
    members = ranks.results({"do": "split", "members": [2, 0], "name": "pair", "ident": 77})
    assert members == [[0, True], [0, False], [0, True]]
    ranks.ask({"do": "all_reduce", "values": [1, 2], "comm": "pair"}, [0])
    ranks.ask({"do": "all_reduce", "values": [10, 20], "comm": "pair"}, [2])
    assert [answer["result"] for answer in ranks.answers([0, 2])] == [[0, ""]] * 2
    assert ranks.results({"do": "sync"}, [0, 2]) == [[0, ""]] * 2
    assert ranks.results({"do": "read"}, [0, 2]) == [[11, 22]] * 2
    assert ranks.results({"do": "destroy", "comm": "pair"}, [0, 2]) == [[0, ""]] * 2


def test_a_call_returns_before_the_others_have_come(ranks: Processes) -> None:
    assert ranks.results({"do": "barrier"}, [0]) == [[0, ""]]
    assert ranks.results({"do": "ready"}, [0]) == [False]
    assert ranks.results({"do": "barrier"}, [1, 2]) == [[0, ""]] * 2
    assert ranks.results({"do": "sync"}) == [[0, ""]] * 3
    assert ranks.results({"do": "ready"}) == [True] * 3


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"do": "all_reduce", "values": [1], "dtype": "uint8"}, "data type uint8 (7) is not supported on Ascend910B3"),
        ({"do": "all_reduce", "values": [1], "dtype": "float64"}, "data type float64 (10) is not supported"),
        ({"do": "all_reduce", "values": [1], "dtype": "int16", "op": PROD}, "reduction prod of int16 is not supported"),
        ({"do": "all_reduce", "values": [1], "dtype": "bfloat16", "op": PROD}, "reduction prod of bfp16 is not"),
        ({"do": "all_reduce", "values": [1], "op": 4}, "unknown reduction 4"),
        ({"do": "broadcast", "values": [1], "dtype": "float8_e4m3"}, "data type float8-e4m3 (15) is not supported"),
        ({"do": "broadcast", "values": [1], "dtype": "int128"}, "data type int128 (12) is not supported"),
    ],
)
def test_what_the_documentation_does_not_list_is_refused(
    ranks: Processes, request_: dict[str, Any], words: str
) -> None:
    code, message = ranks.results(request_, [0])[0]
    assert code == NOT_SUPPORTED and words in message


def test_wrong_arguments_are_refused(ranks: Processes) -> None:
    code, message = ranks.results({"do": "broadcast", "values": [1], "dtype": "int8", "root": 3}, [0])[0]
    assert code == BAD_PARAMETER and "rank 3 is not in the communicator" in message
    code, message = ranks.results({"do": "all_reduce", "values": [1], "count": 1 << 36}, [0])[0]
    assert code == BAD_PARAMETER and "above 0x7ffffffff" in message
    code, message = ranks.results({"do": "all_reduce", "values": [1] * 4, "count": 1 << 20}, [0])[0]
    assert code == BAD_PARAMETER and "not device memory" in message


def test_nothing_to_move_is_a_success(ranks: Processes) -> None:
    assert ranks.results({"do": "all_reduce", "values": [], "count": 0}, [0]) == [[0, ""]]


def test_the_trace_counts_bytes_sent_to_other_ranks(ranks: Processes) -> None:
    ranks.results({"do": "trace", "action": "start"})
    run(ranks, lambda rank: {"do": "all_gather", "values": [rank] * 10, "dtype": "float32"})
    run(ranks, lambda rank: {"do": "broadcast", "values": [rank] * 6, "dtype": "int8", "root": 1})
    ranks.results({"do": "trace", "action": "stop"})
    counts = [trace["hccl"] for trace in ranks.results({"do": "trace", "action": "snapshot"})]
    ranks.results({"do": "trace", "action": "reset"})
    assert [count["HcclAllGather"] for count in counts] == [{"calls": 1, "bytes": 2 * 40}] * 3
    assert [count["HcclBroadcast"]["bytes"] for count in counts] == [0, 12, 0]


def table(devices: list[tuple[str, str]], **changes: Any) -> dict[str, Any]:
    listed = [{"device_id": device, "rank_id": rank} for device, rank in devices]
    return {
        "status": "completed",
        "version": "1.0",
        "server_count": "1",
        "server_list": [{"server_id": "node_0", "device": listed}],
        **changes,
    }


def test_communicators_from_a_rank_table(build: Path, tmp_path: Path) -> None:
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps(table([("0", "1"), ("1", "0")]), indent=2))
    group = Processes("abi_rank.py", 2, str(build))
    try:
        for _ in range(2):  # the same table again: another communicator
            assert group.results({"do": "init_table", "path": str(path)}) == [[0, ""]] * 2
            assert group.results({"do": "all_reduce", "values": [4, 5]}) == [[0, ""]] * 2
            assert group.results({"do": "sync"}) == [[0, ""]] * 2
            assert group.results({"do": "read"}) == [[8, 10]] * 2
            assert group.results({"do": "destroy"}) == [[0, ""]] * 2
    finally:
        group.stop()


def test_wrong_rank_tables(ranks: Processes, tmp_path: Path) -> None:
    def refused(content: str) -> tuple[int, str]:
        path = tmp_path / "ranks.json"
        path.write_text(content)
        code, message = ranks.results({"do": "init_table", "path": str(path)}, [1])[0]
        return code, message

    good = [("0", "0"), ("1", "1")]
    for content, words in {
        json.dumps(table(good))[:-3]: "missing",
        json.dumps(table(good, status="initializing")): '"status" is "initializing"',
        json.dumps(table(good, version="2.0")): "version 2.0",
        json.dumps(table(good, server_count="2")): '"server_count" is not the length',
        json.dumps(table([("0", "0"), ("0", "1")])): "device node_0/0 is there twice",
        json.dumps(table([("0", "0"), ("1", "0")])): "rank_id 0 is there twice",
        json.dumps(table([("0", "0"), ("1", "2")])): "the rank_ids are not 0 to",
        json.dumps({"status": "completed"}): '"version" is missing',
    }.items():
        code, message = refused(content)
        assert code == BAD_PARAMETER and words in message and "EI0004" in message, message
    servers = [{"server_id": f"node_{i}", "device": [{"device_id": "0", "rank_id": str(i)}]} for i in range(2)]
    code, message = refused(json.dumps(table(good, server_count="2", server_list=servers)))
    assert code == NOT_SUPPORTED and "several servers" in message
    code, message = ranks.results({"do": "init_table", "path": str(tmp_path / "none.json")}, [1])[0]
    assert code == OPEN_FILE and "none.json" in message
