"""One rank of a group: torch.distributed with torch-npu's hccl back end, and gloo next to it for the expected values.

    python torch_rank.py RANK RANKS PORT

Reads JSON lines {"case": name, "dtype": name} from its input and answers {"error": null or text} to each. All values
are small integers, so that sums and products of eight ranks are exact in every type: a difference from gloo is wrong.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

import torch
import torch.distributed as dist

LENGTHS = (1, 7, 1000, 300_001)  # elements: less than a cache line up to more than the ring between two ranks
Case = Callable[["Rank", torch.dtype], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


class Rank:
    def __init__(self, rank: int, ranks: int, port: int) -> None:
        self.rank, self.ranks = rank, ranks
        torch.npu.set_device(rank)
        dist.init_process_group("hccl", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
        self.gloo = dist.new_group(backend="gloo")

    def data(self, length: int, dtype: torch.dtype, salt: int = 0) -> torch.Tensor:
        """Numbers from 0 to 2 that differ from rank to rank, on the CPU."""
        generator = torch.Generator().manual_seed(1000 * salt + self.rank)
        return torch.randint(0, 3, (length,), generator=generator).to(dtype)

    def expect(self, found: torch.Tensor, wanted: torch.Tensor) -> None:
        wanted = wanted.to(found.dtype)
        host = found.cpu()
        if wanted.element_size() == 1 and wanted.is_floating_point():  # no == for 8-bit floats
            wanted, host = wanted.view(torch.uint8), host.view(torch.uint8)
        assert torch.equal(host, wanted), f"rank {self.rank}: {host.flatten()[:8]} instead of {wanted.flatten()[:8]}"


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """What gloo computes with; always a copy."""
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64, copy=True)


def reductions(dtype: torch.dtype) -> list[Any]:
    excluded = dtype in (torch.int16, torch.bfloat16)  # documented: no product of these
    return [dist.ReduceOp.SUM, dist.ReduceOp.MAX, dist.ReduceOp.MIN] + ([] if excluded else [dist.ReduceOp.PRODUCT])


@case
def all_reduce(self: Rank, dtype: torch.dtype) -> None:
    for operation in reductions(dtype):
        for length in LENGTHS:
            mine = self.data(length, dtype, length)
            found, wanted = mine.npu(), wide(mine)
            dist.all_reduce(found, operation)
            dist.all_reduce(wanted, operation, group=self.gloo)
            self.expect(found, wanted)


@case
def reduce(self: Rank, dtype: torch.dtype) -> None:
    root = self.ranks - 1
    for operation in reductions(dtype):
        for length in LENGTHS:
            mine = self.data(length, dtype, length)
            found, wanted = mine.npu(), wide(mine)
            dist.reduce(found, root, operation)
            dist.reduce(wanted, root, operation, group=self.gloo)
            self.expect(found, wanted if self.rank == root else mine)


@case
def reduce_scatter(self: Rank, dtype: torch.dtype) -> None:
    for operation in reductions(dtype):
        for length in LENGTHS:
            mine = self.data(length * self.ranks, dtype, length)
            found, total = torch.empty(length, dtype=dtype, device="npu"), wide(mine)
            dist.reduce_scatter_tensor(found, mine.npu(), operation)
            dist.all_reduce(total, operation, group=self.gloo)
            self.expect(found, total[self.rank * length : (self.rank + 1) * length])


@case
def broadcast(self: Rank, dtype: torch.dtype) -> None:
    for root in range(self.ranks):
        for length in LENGTHS:
            mine = self.data(length, dtype, length)
            found, wanted = mine.npu(), wide(mine)
            dist.broadcast(found, root)
            dist.broadcast(wanted, root, group=self.gloo)
            self.expect(found, wanted)


@case
def all_gather(self: Rank, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        mine = self.data(length, dtype, length)
        wanted = [torch.empty_like(wide(mine)) for _ in range(self.ranks)]
        dist.all_gather(wanted, wide(mine), group=self.gloo)
        found = torch.empty(length * self.ranks, dtype=dtype, device="npu")
        dist.all_gather_into_tensor(found, mine.npu())
        self.expect(found, torch.cat(wanted))


@case
def all_gather_into_a_list(self: Rank, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        mine = self.data(length, dtype, length)
        wanted = [torch.empty_like(wide(mine)) for _ in range(self.ranks)]
        dist.all_gather(wanted, wide(mine), group=self.gloo)
        found = [torch.empty(length, dtype=dtype, device="npu") for _ in range(self.ranks)]
        dist.all_gather(found, mine.npu())
        self.expect(torch.cat(found), torch.cat(wanted))


@case
def all_to_all(self: Rank, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        mine = self.data(length * self.ranks, dtype, length)
        found, wanted = torch.empty_like(mine, device="npu"), torch.empty_like(wide(mine))
        dist.all_to_all_single(found, mine.npu())
        dist.all_to_all_single(wanted, wide(mine), group=self.gloo)
        self.expect(found, wanted)


@case
def all_to_all_with_splits(self: Rank, dtype: torch.dtype) -> None:
    for scale in (1, 30_001):
        # Rank i sends j * (i + 1) pieces to rank j: nothing to rank 0.
        sent = [peer * (self.rank + 1) * scale for peer in range(self.ranks)]
        received = [self.rank * (peer + 1) * scale for peer in range(self.ranks)]
        mine = self.data(sum(sent), dtype, scale)
        found = torch.empty(sum(received), dtype=dtype, device="npu")
        wanted = wide(torch.empty(sum(received), dtype=dtype))
        dist.all_to_all_single(found, mine.npu(), received, sent)
        dist.all_to_all_single(wanted, wide(mine), received, sent, group=self.gloo)
        self.expect(found, wanted)


@case
def scatter(self: Rank, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        parts = [self.data(length, dtype, peer) for peer in range(self.ranks)]
        found, wanted = torch.empty(length, dtype=dtype, device="npu"), wide(torch.empty(length, dtype=dtype))
        dist.scatter(found, [part.npu() for part in parts] if self.rank == 0 else None, src=0)
        dist.scatter(wanted, [wide(part) for part in parts] if self.rank == 0 else None, src=0, group=self.gloo)
        self.expect(found, wanted)


@case
def gather(self: Rank, dtype: torch.dtype) -> None:
    for length in LENGTHS:
        mine, here = self.data(length, dtype, length), self.rank == 0
        found = [torch.empty(length, dtype=dtype, device="npu") for _ in range(self.ranks)] if here else None
        wanted = [torch.empty_like(wide(mine)) for _ in range(self.ranks)] if here else None
        dist.gather(mine.npu(), found, dst=0)
        dist.gather(wide(mine), wanted, dst=0, group=self.gloo)
        if found and wanted:
            self.expect(torch.cat(found), torch.cat(wanted))


@case
def send_and_receive(self: Rank, dtype: torch.dtype) -> None:
    """Every rank to the next one, the even ones first."""
    following, previous = (self.rank + 1) % self.ranks, (self.rank - 1) % self.ranks
    for length in LENGTHS:
        mine = self.data(length, dtype, length)
        found, wanted = torch.empty(length, dtype=dtype, device="npu"), wide(torch.empty(length, dtype=dtype))
        for send in (True, False) if self.rank % 2 == 0 else (False, True):
            if send:
                dist.send(mine.npu(), following)
            else:
                dist.recv(found, previous)
        pending = dist.isend(wide(mine), following, group=self.gloo)
        dist.recv(wanted, previous, group=self.gloo)
        pending.wait()
        self.expect(found, wanted)


@case
def batched_send_and_receive(self: Rank, dtype: torch.dtype) -> None:
    """Every rank to all others at once, all of them sending first."""
    others = [peer for peer in range(self.ranks) if peer != self.rank]
    for length in LENGTHS:
        mine = {peer: self.data(length, dtype, peer) for peer in others}
        found = {peer: torch.empty(length, dtype=dtype, device="npu") for peer in others}
        wanted = {peer: wide(torch.empty(length, dtype=dtype)) for peer in others}
        batch = [dist.P2POp(dist.isend, mine[peer].npu(), peer) for peer in others]
        batch += [dist.P2POp(dist.irecv, found[peer], peer) for peer in others]
        for work in dist.batch_isend_irecv(batch):
            work.wait()
        sent = [dist.isend(wide(mine[peer]), peer, group=self.gloo) for peer in others]
        for peer in others:
            dist.recv(wanted[peer], peer, group=self.gloo)
            self.expect(found[peer], wanted[peer])
        for work in sent:
            work.wait()


@case
def objects(self: Rank, _: torch.dtype) -> None:
    found: list[Any] = [None] * self.ranks
    dist.all_gather_object(found, {"rank": self.rank, "text": "x" * (self.rank * 100)})
    assert found == [{"rank": rank, "text": "x" * (rank * 100)} for rank in range(self.ranks)]
    sent = [("from", self.rank), [self.rank]]
    dist.broadcast_object_list(sent, src=self.ranks - 1)
    assert sent == [("from", self.ranks - 1), [self.ranks - 1]]


@case
def groups(self: Rank, dtype: torch.dtype) -> None:
    """A pair of neighbours each and all ranks at the same time; the groups are used alternately."""
    pairs = [dist.new_group([first, first + 1]) for first in range(0, self.ranks, 2)]
    mine, pair = self.data(1000, dtype), pairs[self.rank // 2]
    everyone = [torch.empty_like(wide(mine)) for _ in range(self.ranks)]
    dist.all_gather(everyone, wide(mine), group=self.gloo)
    first = self.rank // 2 * 2
    for _ in range(3):
        of_pair, of_all = mine.npu(), mine.npu()
        dist.all_reduce(of_pair, group=pair)
        dist.all_reduce(of_all)
        self.expect(of_pair, everyone[first] + everyone[first + 1])
        self.expect(of_all, torch.stack(everyone).sum(0))
    dist.destroy_process_group(pair)


@case
def asynchronous(self: Rank, dtype: torch.dtype) -> None:
    """The call returns before the others have come; the result is there after wait(), for the stream that waits."""
    mine = self.data(300_001, dtype)
    found, wanted = mine.npu(), wide(mine)
    if self.rank != 0:
        dist.barrier(group=self.gloo)  # rank 0 is through with its call
    work = dist.all_reduce(found, async_op=True)
    if self.rank == 0:
        assert not work.is_completed()
        dist.barrier(group=self.gloo)
    work.wait()
    dist.all_reduce(wanted, group=self.gloo)
    self.expect(found + 1, wanted + 1)


@case
def other_work_goes_on(self: Rank, dtype: torch.dtype) -> None:
    """Work that does not need the result runs while the collective waits for another rank."""
    mine = self.data(1000, dtype)
    found, wanted = mine.npu(), wide(mine)
    if self.rank != 0:
        dist.barrier(group=self.gloo)
    work = dist.all_reduce(found, async_op=True)
    if self.rank == 0:
        self.expect(mine.npu() + mine.npu(), wide(mine) * 2)
        dist.barrier(group=self.gloo)
    work.wait()
    dist.all_reduce(wanted, group=self.gloo)
    self.expect(found, wanted)


@case
def barrier(self: Rank, _: torch.dtype) -> None:
    for _ in range(20):
        dist.barrier()


@case
def rows_of_different_sizes(self: Rank, dtype: torch.dtype) -> None:
    from ascend_patch import npu

    group = dist.group.WORLD
    for sizes in ([3] * self.ranks, [2 * rank + 1 for rank in range(self.ranks)]):
        mine = self.data(sizes[self.rank] * 5, dtype).view(-1, 5)
        parts = [wide(torch.empty(size, 5, dtype=dtype)) for size in sizes]
        for peer, part in enumerate(parts):
            if peer == self.rank:
                part.copy_(mine)
            dist.broadcast(part, peer, group=self.gloo)
        everything = torch.cat(parts)
        self.expect(npu.all_gather_rows(mine.npu(), sizes, group), everything)
        first = sum(sizes[: self.rank])
        total = (everything * (self.rank + 1)).to(dtype).npu()
        own = everything[first : first + sizes[self.rank]] * sum(range(self.ranks + 1))
        self.expect(npu.reduce_scatter_rows(total, sizes, group), own)


@case
def experts(self: Rank, dtype: torch.dtype) -> None:
    """Tokens to the experts of all ranks, each of which multiplies by its number and one, and back."""
    from ascend_patch import npu

    group = dist.new_group(list(range(self.ranks)))
    ranks = npu.ranks_of(group)
    own, k, size = 3, 4, 64
    for sizes in ([4] * self.ranks, [2 * rank + 1 for rank in range(self.ranks)], [1] * self.ranks):
        tokens, generator = [], torch.Generator().manual_seed(sum(sizes))
        for count in sizes:
            x = torch.randint(-2, 3, (count, size), generator=generator).to(dtype)
            order = [torch.randperm(own * self.ranks, generator=generator)[:k] for _ in range(count)]
            # Sums of powers of two: exact whatever the order.
            tokens.append((x, torch.stack(order).int(), 0.5 ** torch.randint(1, 4, (count, k), generator=generator)))
        x, chosen, weights = tokens[self.rank]
        whole = (chosen.npu(), weights.npu(), own * self.ranks, max(sizes), ranks)
        received = npu.send_tokens(x.npu(), *whole)
        first = self.rank * own
        wanted = [
            [row for rows, places, _ in tokens for row in rows[(places == expert).any(1)]]
            for expert in range(first, first + own)
        ]
        counts = [len(rows) for rows in wanted]
        assert received.counts.tolist() == counts
        rows = [row for group_rows in wanted for row in group_rows]
        if rows:
            self.expect(received.rows[: len(rows)], torch.stack(rows))
        assert len(received.rows) == max(sizes) * self.ranks * min(own, k)
        numbers = torch.arange(first, first + own).repeat_interleave(torch.tensor(counts)) + 1
        answers = received.rows.clone()
        answers[: len(rows)] *= numbers.to(dtype).npu().unsqueeze(1)
        found = npu.return_tokens(answers, received, *whole)
        self.expect(found, (x * (weights * (chosen + 1)).sum(1, keepdim=True)).to(dtype))
    try:
        dist.all_reduce(torch.ones(1).npu(), group=group)
    except RuntimeError as error:
        assert "belongs to operators that communicate on their own" in str(error), error
        return
    raise AssertionError("a collective ran beside the operators")


@case
def products(self: Rank, dtype: torch.dtype) -> None:
    """Of small integers, so that every order of adding up gives the same; the weight lies transposed, as vLLM's do."""
    from ascend_patch import npu

    group = dist.new_group(list(range(self.ranks)))
    for shape, inner, columns in [((5,), 32, 48), ((2, 7), 64, 16), ((600,), 128, 96)]:
        x, weight = (
            self.data(math.prod(sizes), dtype, salt).view(sizes)
            for salt, sizes in [(1, (*shape, inner)), (2, (columns, inner))]
        )
        wanted = wide(x) @ wide(weight).t()
        dist.all_reduce(wanted, group=self.gloo)
        name = npu.ranks_of(group).name
        self.expect(npu.matmul_all_reduce(x.npu(), weight.npu(), name), wanted)
        mine = x.npu()  # the communicator does collectives as well
        dist.all_reduce(mine, group=group)


@case
def a_killed_rank(self: Rank, dtype: torch.dtype) -> None:
    found = self.data(1000, dtype).npu()
    dist.all_reduce(found)
    found.cpu()
    if self.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        dist.all_reduce(found)
        found.cpu()
    except RuntimeError as error:
        assert "rank 1 (process" in str(error) and "has ended" in str(error), error
        return
    raise AssertionError("the collective ended without an error")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # torch-npu prints warnings to its output
    from ascend_patch import hostcann

    hostcann.load()
    import torch_npu  # noqa: F401

    hostcann.attach()
    rank = Rank(*map(int, sys.argv[1:]))
    for line in sys.stdin:
        request = json.loads(line)
        error = None
        try:
            CASES[request["case"]](rank, getattr(torch, request["dtype"]))
        except Exception:
            error = traceback.format_exc()
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
