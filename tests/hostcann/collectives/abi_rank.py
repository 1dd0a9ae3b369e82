"""One rank that calls libhccl itself, without torch: codes, messages, and what happens when ranks fail.

    python abi_rank.py RANK RANKS FOLDER

Reads JSON lines {"do": name, ...arguments} from its input and answers {"error": null or text, "result": ...}.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from typing import Any

import numpy as np

ROOT_INFO_BYTES = 4108
DTYPES = {
    "int8": 0, "int16": 1, "int32": 2, "float16": 3, "float32": 4, "int64": 5, "uint64": 6, "uint8": 7, "uint16": 8,
    "uint32": 9, "float64": 10, "bfloat16": 11, "int128": 12, "hifloat8": 14, "float8_e4m3": 15,
}  # fmt: skip


def number(value: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(value)


def numbers(values: Any) -> Any:
    flat = np.asarray(values, dtype=np.uint64).ravel().tolist()
    return (ctypes.c_uint64 * max(1, len(flat)))(*flat)


class Item(ctypes.Structure):
    """HcclSendRecvItem."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("count", ctypes.c_uint64),
        ("dtype", ctypes.c_int),
        ("peer", ctypes.c_uint32),
    )


class Rank:
    def __init__(self, rank: int, ranks: int, folder: str) -> None:
        self.rank, self.ranks = rank, ranks
        self.acl = ctypes.CDLL(f"{folder}/libascendcl.so", mode=ctypes.RTLD_GLOBAL)
        self.hccl = ctypes.CDLL(f"{folder}/libhccl.so")
        self.acl.aclGetRecentErrMsg.restype = ctypes.c_char_p
        self.comms: dict[str, ctypes.c_void_p] = {}
        assert self.acl.aclrtSetDevice(rank) == 0
        self.streams = {"default": ctypes.c_void_p(None)}
        self.buffers: dict[str, tuple[ctypes.c_void_p, Any, int]] = {}

    def message(self) -> str:
        return (self.acl.aclGetRecentErrMsg() or b"").decode()

    def buffer(self, name: str, array: Any) -> ctypes.c_void_p:
        address = ctypes.c_void_p()
        assert self.acl.aclrtMalloc(ctypes.byref(address), ctypes.c_size_t(max(1, array.nbytes)), 0) == 0
        ctypes.memmove(address, array.ctypes.data, array.nbytes)
        self.buffers[name] = (address, array.dtype, array.size)
        return address

    def read(self, name: str = "target") -> list[Any]:
        address, dtype, size = self.buffers[name]
        array = np.empty(size, dtype)
        ctypes.memmove(array.ctypes.data, address, array.nbytes)
        return array.tolist()  # type: ignore[no-any-return]

    # Each of the following is a request; the answer is [code, message] unless stated otherwise.

    def root_info(self) -> str:
        info = ctypes.create_string_buffer(ROOT_INFO_BYTES)
        assert self.hccl.HcclGetRootInfo(info) == 0
        return info.value.decode()

    def init(self, root: str, comm: str = "world", ranks: int = 0, rank: int = -1) -> Any:
        handle = ctypes.c_void_p()
        info = ctypes.create_string_buffer(root.encode(), ROOT_INFO_BYTES)
        mine = self.rank if rank < 0 else rank
        code = self.hccl.HcclCommInitRootInfo(ranks or self.ranks, info, mine, ctypes.byref(handle))
        self.comms[comm] = handle
        return [code, self.message()]

    def init_table(self, path: str) -> Any:
        handle = ctypes.c_void_p()
        code = self.hccl.HcclCommInitClusterInfo(path.encode(), self.rank, ctypes.byref(handle))
        self.comms["world"] = handle
        return [code, self.message()]

    def split(self, members: list[int], name: str, ident: int) -> Any:
        handle, parent = ctypes.c_void_p(), self.comms["world"]
        taking_part = self.rank in members
        code = self.hccl.HcclCreateSubCommConfig(
            ctypes.byref(parent),
            len(members),
            (ctypes.c_uint32 * len(members))(*members) if taking_part else None,
            number(ident if taking_part else 0xFFFFFFFF),
            members.index(self.rank) if taking_part else 0,
            None,
            ctypes.byref(handle),
        )
        self.comms[name] = handle
        return [code, bool(handle.value)]

    def destroy(self, comm: str = "world") -> Any:
        return [self.hccl.HcclCommDestroy(self.comms.pop(comm)), self.message()]

    def sync(self) -> Any:
        return [self.acl.aclrtSynchronizeStream(None), self.message()]

    def async_error(self, comm: str = "world") -> int:
        error = ctypes.c_int(-1)
        assert self.hccl.HcclGetCommAsyncError(self.comms[comm], ctypes.byref(error)) == 0
        return error.value

    def all_reduce(
        self, values: list[float], dtype: str = "float32", op: int = 0, comm: str = "world", count: int = -1
    ) -> Any:
        array = np.array(values, dtype if hasattr(np, dtype) else "uint16")
        source, target = self.buffer("source", array), self.buffer("target", np.zeros_like(array))
        length = number(array.size if count < 0 else count)
        code = self.hccl.HcclAllReduce(source, target, length, DTYPES[dtype], op, self.comms[comm], None)
        return [code, self.message()]

    def broadcast(self, values: list[float], dtype: str, root: int = 0) -> Any:
        target = self.buffer("target", np.array(values, dtype if hasattr(np, dtype) else "uint8"))
        code = self.hccl.HcclBroadcast(target, number(len(values)), DTYPES[dtype], root, self.comms["world"], None)
        return [code, self.message()]

    def all_gather(self, values: list[float], dtype: str) -> Any:
        array = np.array(values, dtype)
        source = self.buffer("source", array)
        target = self.buffer("target", np.zeros(array.size * self.ranks, dtype))
        code = self.hccl.HcclAllGather(
            source, target, number(array.size), DTYPES[dtype], self.comms["world"], None
        )  # fmt: skip
        return [code, self.message()]

    def all_gather_v(self, values: list[float], counts: list[int], displacements: list[int]) -> Any:
        source = self.buffer("source", np.array(values, "float32"))
        target = self.buffer("target", np.full(sum(counts) + 10, -1, "float32"))
        code = self.hccl.HcclAllGatherV(
            source, number(len(values)), target, numbers(counts), numbers(displacements), DTYPES["float32"],
            self.comms["world"], None,
        )  # fmt: skip
        return [code, self.message()]

    def reduce_scatter_v(self, values: list[float], counts: list[int], displacements: list[int]) -> Any:
        source = self.buffer("source", np.array(values, "float32"))
        target = self.buffer("target", np.zeros(counts[self.rank], "float32"))
        code = self.hccl.HcclReduceScatterV(
            source, numbers(counts), numbers(displacements), target, number(counts[self.rank]), DTYPES["float32"], 0,
            self.comms["world"], None,
        )  # fmt: skip
        return [code, self.message()]

    def all_to_all_vc(self, values: list[float], matrix: list[list[int]]) -> Any:
        source = self.buffer("source", np.array(values, "int32"))
        received = int(sum(row[self.rank] for row in matrix))
        target = self.buffer("target", np.full(received, -1, "int32"))
        kind = DTYPES["int32"]
        code = self.hccl.HcclAlltoAllVC(source, numbers(matrix), kind, target, kind, self.comms["world"], None)
        return [code, self.message()]

    def send(self, values: list[float], peer: int) -> Any:
        source = self.buffer("source", np.array(values, "float32"))
        code = self.hccl.HcclSend(source, number(len(values)), DTYPES["float32"], peer, self.comms["world"], None)
        return [code, self.message()]

    def receive(self, count: int, peer: int) -> Any:
        target = self.buffer("target", np.zeros(count, "float32"))
        code = self.hccl.HcclRecv(target, number(count), DTYPES["float32"], peer, self.comms["world"], None)
        return [code, self.message()]

    def exchange(self, values: list[float], peer: int, how: str) -> Any:
        """Sends and receives at once: as a batch, or as a group of a send and a receive."""
        source = self.buffer("source", np.array(values, "float32"))
        target = self.buffer("target", np.zeros(len(values), "float32"))
        if how == "group":
            self.hccl.HcclGroupStart()
            comm, kind = self.comms["world"], DTYPES["float32"]
            assert self.hccl.HcclSend(source, number(len(values)), kind, peer, comm, None) == 0
            assert self.hccl.HcclRecv(target, number(len(values)), kind, peer, comm, None) == 0
            return [self.hccl.HcclGroupEnd(), self.message()]
        items = (Item * 2)(
            Item(0, source, len(values), DTYPES["float32"], peer), Item(1, target, len(values), DTYPES["float32"], peer)
        )
        return [self.hccl.HcclBatchSendRecv(items, 2, self.comms["world"], None), self.message()]

    def barrier(self) -> Any:
        return [self.hccl.HcclBarrier(self.comms["world"], None), self.message()]

    def ready(self) -> Any:
        """Whether everything on the default stream is through."""
        status = ctypes.c_int(-1)
        assert self.acl.aclrtStreamQuery(None, ctypes.byref(status)) == 0
        return status.value == 0

    def trace(self, action: str) -> Any:
        if action != "snapshot":
            getattr(self.acl, f"hostcann_trace_{action}")()
            return None
        self.acl.hostcann_trace_snapshot.restype = ctypes.c_size_t
        text = ctypes.create_string_buffer(1 << 16)
        self.acl.hostcann_trace_snapshot(text, ctypes.c_size_t(len(text)))
        return json.loads(text.value)


def main() -> None:
    rank = Rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {"error": None, "result": None}
        try:
            answer["result"] = getattr(rank, request.pop("do"))(**request)
        except Exception:
            answer["error"] = traceback.format_exc()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
