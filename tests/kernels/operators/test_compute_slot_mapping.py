"""compute_slot_mapping on the simulator and on hostcann, token by token from the definition of a paged cache."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import compute_slot_mapping as package
from ascend_patch.kernels import loading

from .conftest import Simulate


class Batch(NamedTuple):
    lengths: tuple[int, ...]
    """New tokens of each request."""
    contexts: tuple[int, ...]
    """Tokens that each request has in the cache already."""
    block_size: int
    padding: int
    spare_rows: int
    row_gap: int
    """Columns of the table that the operator does not see."""

    def arguments(self, device: str = "cpu") -> tuple[Any, ...]:
        starts = torch.tensor((0, *self.lengths), dtype=torch.int32).cumsum(0).to(torch.int32)
        pairs = zip(self.lengths, self.contexts, strict=True)
        positions = [torch.arange(context, context + length) for length, context in pairs]
        columns = -(
            -max((sum(pair) for pair in zip(self.lengths, self.contexts, strict=True)), default=1) // self.block_size
        )
        rows = len(self.lengths) + self.spare_rows
        table = torch.randperm(rows * (max(columns, 1) + self.row_gap), generator=torch.Generator().manual_seed(3))
        table = table.to(torch.int32).view(rows, -1).to(device)[:, : max(columns, 1)]
        tokens = sum(self.lengths)
        slots = torch.full((tokens + self.padding,), -77, device=device)
        found = torch.cat(positions) if positions else torch.zeros(0, dtype=torch.int64)
        return starts.to(device), found.to(device), table, self.block_size, slots

    def expected(self, table: torch.Tensor) -> list[int]:
        rows, slots = table.tolist(), []
        for request, (length, context) in enumerate(zip(self.lengths, self.contexts, strict=True)):
            for position in range(context, context + length):
                block = rows[request][position // self.block_size]
                slots.append(block * self.block_size + position % self.block_size)
        return slots + [-1] * self.padding


lengths = st.one_of(st.integers(0, 40), st.sampled_from([2047, 2048, 2049, 4100]))
requests = st.lists(st.tuples(lengths, st.integers(0, 300)), min_size=1, max_size=9)
batches = st.builds(
    lambda pairs, size, padding, spare, gap: Batch(
        tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs), size, padding, spare, gap
    ),
    requests,
    st.sampled_from([1, 2, 16, 128]),
    st.sampled_from([0, 1, 7, 2047, 2048, 5000]),
    st.integers(0, 3),
    st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(batches, st.integers(1, 5))
@example(Batch((0,), (0,), 16, 0, 0, 0), 1)
@example(Batch((5000,), (0,), 1, 3, 0, 0), 2)  # more table columns than fit into one window
@example(Batch((1,) * 1100, tuple(range(1100)), 16, 5, 0, 1), 3)  # more requests than fit at once
def test_slots_are_those_of_the_paged_cache(simulate: Simulate, batch: Batch, cores: int) -> None:
    arguments = batch.arguments()
    simulate(package, *arguments, cores=cores)
    assert arguments[-1].tolist() == batch.expected(arguments[2])


@settings(max_examples=40, deadline=None)
@given(batches)
def test_the_reference_computes_the_same(batch: Batch) -> None:
    arguments = batch.arguments()
    package.compute_slot_mapping(*arguments)
    assert arguments[-1].tolist() == batch.expected(arguments[2])


@settings(max_examples=15, deadline=None)
@given(batches)
def test_the_operator_launches_it_on_the_device(npu: ModuleType, batch: Batch) -> None:
    assert loading.unavailable(package.KERNEL) is None
    arguments = batch.arguments("npu")
    package.compute_slot_mapping(*arguments)
    assert arguments[-1].cpu().tolist() == batch.expected(arguments[2].cpu())


def test_it_is_one_launch_instead_of_those_declared(npu: ModuleType) -> None:
    from ascend_patch.hostcann import trace

    arguments = Batch((3, 2), (0, 17), 16, 4, 0, 0).arguments("npu")
    for function, launches in ((package.reference, package.KERNEL.replaces), (package.compute_slot_mapping, 1)):
        with trace.recording() as counts:
            function(*arguments)
        assert counts()["launches"] == launches


def test_the_compiler_sees_one_operator(caplog: pytest.LogCaptureFixture) -> None:
    batch = Batch((3, 2), (0, 17), 16, 4, 0, 0)
    torch.library.opcheck(package.compute_slot_mapping, batch.arguments())
    seen = []

    def backend(graph: Any, _inputs: Any) -> Any:
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    arguments = batch.arguments()
    with caplog.at_level(logging.ERROR):
        torch.compile(torch.ops.ascend_patch.compute_slot_mapping.default, backend=backend, fullgraph=True)(*arguments)
    assert seen == [torch.ops.ascend_patch.compute_slot_mapping.default]
    assert arguments[-1].tolist() == batch.expected(arguments[2])


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (0, torch.zeros(3, dtype=torch.int64), TypeError, "query_start_loc is torch.int64, it must be torch.int32"),
        (1, torch.zeros(5, dtype=torch.int32), TypeError, "positions is torch.int32"),
        (1, torch.zeros(10, dtype=torch.int64)[::2], ValueError, "positions must be contiguous"),
        (2, torch.zeros(1, 4, dtype=torch.int32), ValueError, "names 2 requests, block_table has 1"),
        (2, torch.zeros(4, dtype=torch.int32), ValueError, "block_table has 1 dimensions"),
        (3, 24, ValueError, "block_size is 24, it must be a power of two"),
        (3, 0, ValueError, "block_size is 0"),
        (4, torch.zeros(4, dtype=torch.int64), ValueError, "slot_mapping holds 4 of 5 tokens"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, value: Any, error: type[Exception], words: str) -> None:
    arguments = list(Batch((3, 2), (0, 17), 16, 4, 0, 0).arguments())
    arguments[place] = value
    with pytest.raises(error, match=words):
        package.compute_slot_mapping(*arguments)
