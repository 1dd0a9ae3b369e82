"""Seeded faults in our kernels: the checks must find every one, and nothing in the kernels as they are.

A mutation is one textual edit of a kernel's source, of the kind that slips into kernels: a lost FreeTensor, a queue at
the wrong position, a length without its tail. Numbers are not compared: many of these faults leave them right here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

Launch = tuple[str, tuple[Any, ...], int]
"""Entry, arguments, blocks."""


@dataclass(frozen=True)
class Mutation:
    name: str
    before: str
    after: str
    occurrence: int = 0

    def apply(self, source: str) -> str:
        parts = source.split(self.before)
        assert len(parts) > self.occurrence + 1, f"{self.before!r} is no longer in the source"
        head = self.before.join(parts[: self.occurrence + 1])
        return head + self.after + self.before.join(parts[self.occurrence + 1 :])


@dataclass(frozen=True)
class Subject:
    """A kernel, launches that reach every branch of it, and what is broken in it."""

    kernel: str
    entries: tuple[str, ...]
    launches: Callable[[], Iterator[Launch]]
    mutations: tuple[Mutation, ...]


def slot_mapping_launches() -> Iterator[Launch]:
    generator = np.random.default_rng(0)
    for lengths, columns, blocks, scattered in (
        # Full and partial tiles, an empty request, one token, padding of more than a tile.
        ((5000, 1, 0, 3), 640, 3, False),
        # Positions all over a row of several windows.
        ((900,), 9000, 1, True),
        # More requests than fit into the unified buffer at once.
        ((1,) * 1025, 4, 2, False),
    ):
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        tokens, capacity = int(starts[-1]), int(starts[-1]) + 2500
        positions = [generator.integers(0, columns * 8, n) if scattered else np.arange(n) for n in lengths]
        table = generator.integers(0, 1000, (len(lengths), columns)).astype(np.int32)
        arrays = (starts, np.concatenate(positions).astype(np.int64), table, np.zeros(capacity, np.int64))
        yield "compute_slot_mapping", (*arrays, len(lengths), tokens, capacity, columns, 3), blocks


SLOT_MAPPING = Subject(
    "compute_slot_mapping",
    ("compute_slot_mapping",),
    slot_mapping_launches,
    (
        Mutation("positions are not freed", "position_queue_.FreeTensor(positions);", ""),
        Mutation("the window is not freed", "window_queue_.FreeTensor(row);", ""),
        Mutation("slots are not freed", "slot_queue_.FreeTensor(slots);", ""),
        Mutation("starts are not freed", "start_queue_.FreeTensor(starts);", ""),
        Mutation(
            "positions are freed twice",
            "position_queue_.FreeTensor(positions);",
            "position_queue_.FreeTensor(positions); position_queue_.FreeTensor(positions);",
        ),
        Mutation("positions are not enqueued", "position_queue_.EnQue(positions);", ""),
        Mutation("positions are not dequeued", "positions = position_queue_.DeQue<int64_t>();", ""),
        Mutation("the window is not dequeued", "row = window_queue_.DeQue<int32_t>();", ""),
        Mutation("slots are not dequeued", "slots = slot_queue_.DeQue<int64_t>();", ""),
        Mutation(
            "slots skip their queue", "slot_queue_.EnQue(slots);\n        slots = slot_queue_.DeQue<int64_t>();", ""
        ),
        Mutation(
            "positions skip their queue",
            "position_queue_.EnQue(positions);\n        positions = position_queue_.DeQue<int64_t>();",
            "",
        ),
        Mutation("slots go into another queue", "slot_queue_.EnQue(slots);", "position_queue_.EnQue(slots);"),
        Mutation(
            "the window is freed into another queue", "window_queue_.FreeTensor(row);", "start_queue_.FreeTensor(row);"
        ),
        Mutation(
            "the window is freed too early",
            "LocalTensor<int32_t> columns = column_buffer_.Get<int32_t>();\n        LocalTensor<int32_t> bytes",
            "window_queue_.FreeTensor(row);\n        LocalTensor<int32_t> columns = column_buffer_.Get<int32_t>();\n        LocalTensor<int32_t> bytes",
        ),
        Mutation(
            "slots are filled in an input queue",
            "TQue<TPosition::VECOUT, 1> slot_queue_;",
            "TQue<TPosition::VECIN, 1> slot_queue_;",
        ),
        Mutation(
            "inputs come through an output queue",
            "TQue<TPosition::VECIN, 1> start_queue_, position_queue_, window_queue_;",
            "TQue<TPosition::VECOUT, 1> start_queue_, position_queue_, window_queue_;",
        ),
        Mutation("positions start one too far", "positions_[token], copy", "positions_[token + 1], copy"),
        Mutation("slots start one too far", "DataCopyPad(slots_[token]", "DataCopyPad(slots_[token + 1]"),
        Mutation(
            "slots are one too many",
            "DataCopyExtParams copy{1, (uint32_t)(length * sizeof(int64_t)), 0, 0, 0};\n        DataCopyPad(slots_",
            "DataCopyExtParams copy{1, (uint32_t)((length + 1) * sizeof(int64_t)), 0, 0, 0};\n        DataCopyPad(slots_",
        ),
        Mutation("starts are one too many", "(count + 1) * sizeof(int32_t)), 0", "(count + 2) * sizeof(int32_t)), 0"),
        Mutation("starts have no room for the last", "(kStarts + 1) * sizeof(int32_t)", "kStarts * sizeof(int32_t)"),
        Mutation(
            "a row too far in the block table",
            "(uint64_t)request * row_stride_ + window",
            "(uint64_t)(request + 1) * row_stride_ + window",
        ),
        Mutation(
            "the window is copied without its tail",
            "DataCopyPad(row, table_[(uint64_t)request * row_stride_ + window], copy, {false, 0, 0, 0});",
            "DataCopy(row, table_[(uint64_t)request * row_stride_ + window], width);",
        ),
        Mutation(
            "positions have half the room",
            "position_queue_, 2, kTile * sizeof(int64_t)",
            "position_queue_, 2, kTile * sizeof(int32_t)",
        ),
        Mutation(
            "columns have half the room",
            "column_buffer_, kTile * sizeof(int32_t)",
            "column_buffer_, kTile * sizeof(int16_t)",
        ),
        Mutation(
            "the window has half the room",
            "window_queue_, 1, kWindow * sizeof(int32_t)",
            "window_queue_, 1, kWindow * sizeof(int16_t)",
        ),
        Mutation("tiles exceed the unified buffer", "kTile = 2048", "kTile = 8192"),
        Mutation("a buffer is forgotten", "pipe_.InitBuffer(offset_buffer_, kTile * sizeof(int32_t));", ""),
        Mutation(
            "the work space is forgotten",
            "LocalTensor<float> work = work_buffer_.Get<float>();",
            "LocalTensor<float> work;",
        ),
        Mutation(
            "columns beyond the window",
            "Mins(bytes, bytes, (int32_t)width - 1, length);",
            "Mins(bytes, bytes, (int32_t)width, length);",
        ),
        Mutation("columns before the window", "Maxs(bytes, bytes, 0, length);", ""),
        Mutation("offsets in elements instead of bytes", "ShiftLeft(bytes, bytes, 2, length);", ""),
        Mutation("a comparison of part of a repeat", "(length + 63) / 64 * 64", "length"),
        Mutation("the maximum is read beside the result", "extremes.GetValue(8)", "extremes.GetValue(9)"),
        Mutation(
            "the maximum is stored between blocks",
            "ReduceMax(extremes[8], column_floats",
            "ReduceMax(extremes, column_floats[9]",
        ),
        Mutation(
            "half of the padding is not filled",
            "Duplicate(slots.ReinterpretCast<int32_t>(), kPadding, length * 2);",
            "Duplicate(slots.ReinterpretCast<int32_t>(), kPadding, length);",
        ),
        Mutation(
            "blocks take every unit", "if (unit++ % GetBlockNum() != GetBlockIdx()) continue;\n                ", ""
        ),
        Mutation("tiles overlap", "token < end; token += kTile", "token < end; token += kTile - 1"),
        Mutation(
            "the tail is padded from one token early",
            "for (int32_t token = tokens_; token < capacity_",
            "for (int32_t token = tokens_ - 1; token < capacity_",
        ),
    ),
)

SUBJECTS = (SLOT_MAPPING,)
SEEDED = [
    pytest.param(subject, mutation, id=f"{subject.kernel}: {mutation.name}")
    for subject in SUBJECTS
    for mutation in subject.mutations
]


def first_fault(program: Any, subject: Subject) -> str:
    """The line of the first launch that fails, or nothing."""
    for entry, arguments, blocks in subject.launches():
        outcome = program(entry, *arguments, blocks=blocks)
        if outcome.fault != "SUCCESS":
            return str(outcome.message)
    return ""


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.kernel)
def test_nothing_is_found_in_the_kernel_as_it_is(build: Any, kernel_source: Any, subject: Subject) -> None:
    assert first_fault(build(kernel_source(subject.kernel), subject.entries), subject) == ""


@pytest.mark.parametrize(("subject", "mutation"), SEEDED)
def test_a_seeded_fault_is_found(build_mutants: Any, kernel_source: Any, subject: Subject, mutation: Mutation) -> None:
    source = mutation.apply(kernel_source(subject.kernel))
    assert first_fault(build_mutants(source, subject.entries), subject) != ""
