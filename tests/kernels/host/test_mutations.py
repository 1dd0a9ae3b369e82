"""Seeded faults in our kernels: the checks must find every one, and nothing in the kernels as they are.

A mutation is one textual edit of a kernel's source, of the kind that slips into kernels: a lost FreeTensor, a queue at
the wrong position, a length without its tail. Numbers are not compared: many of these faults leave them right here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from .mutations import Launch, Mutation, Subject, first_fault, mutants


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
            "Adds(bytes, columns, -(int32_t)window, length);",
            "Adds(bytes, columns, -(int32_t)window, length);\n        window_queue_.FreeTensor(row);",
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
            "(uint32_t)(length * sizeof(int64_t)), 0, 0, 0};\n        DataCopyPad(slots_",
            "(uint32_t)((length + 1) * sizeof(int64_t)), 0, 0, 0};\n        DataCopyPad(slots_",
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


def grammar_launches() -> Iterator[Launch]:
    for name, dtype in (("float", np.float32), ("half", np.float16), ("bfloat16", np.uint16)):
        # Two tiles, the second with an odd tail; rows that a grammar leaves alone.
        logits, bitmask = np.ones((4, 8300), dtype), np.ones((4, 260), np.int32)
        strides = (np.int64(8300), np.int64(260))
        yield f"apply_grammar_bitmask_{name}", (logits, bitmask, np.array([3, 1], np.int32), 2, 8300, *strides), 3
        yield f"apply_grammar_bitmask_{name}", (logits, bitmask, None, 4, 8300, *strides), 1


GRAMMAR = Subject(
    "apply_grammar_bitmask",
    tuple(f"apply_grammar_bitmask_{name}" for name in ("float", "half", "bfloat16")),
    grammar_launches,
    (
        Mutation("logits are not freed", "in_queue_.FreeTensor(logits);", ""),
        Mutation("the mask is not freed", "mask_queue_.FreeTensor(mask);", ""),
        Mutation("the result is not freed", "out_queue_.FreeTensor(masked);", ""),
        Mutation("the mask is not enqueued", "mask_queue_.EnQue(mask);", ""),
        Mutation("the mask is not dequeued", "mask = mask_queue_.template DeQue<int32_t>();", ""),
        Mutation("logits are not dequeued", "logits = in_queue_.template DeQue<T>();", ""),
        Mutation("the result is not dequeued", "masked = out_queue_.template DeQue<T>();", ""),
        Mutation(
            "the mask is freed before its use",
            "LocalTensor<uint8_t> bits",
            "mask_queue_.FreeTensor(mask);\n        LocalTensor<uint8_t> bits",
        ),
        Mutation(
            "the result is in an input queue",
            "TQue<TPosition::VECOUT, 1> out_queue_;",
            "TQue<TPosition::VECIN, 1> out_queue_;",
        ),
        Mutation(
            "inputs are in output queues",
            "TQue<TPosition::VECIN, 1> in_queue_, mask_queue_;",
            "TQue<TPosition::VECOUT, 1> in_queue_, mask_queue_;",
        ),
        Mutation(
            "logits are stored from the input",
            "DataCopyPad(logits_[offset], masked, copy);",
            "DataCopyPad(logits_[offset], logits, copy);",
        ),
        Mutation(
            "the mask has too little room",
            "pipe_.InitBuffer(mask_queue_, 2, kTile / 8);",
            "pipe_.InitBuffer(mask_queue_, 2, kTile / 16);",
        ),
        Mutation(
            "the mask is of the next row",
            "bitmask_[row * bitmask_stride_",
            "bitmask_[(row + 1) * bitmask_stride_",
        ),
        Mutation(
            "the tail is copied in blocks",
            "DataCopyPad(logits, logits_[offset], copy, {false, 0, 0, T{}});",
            "DataCopy(logits, logits_[offset], length);",
        ),
        Mutation(
            "a tile too long",
            "Unit(row, first, vocab_ - first < kTile ? vocab_ - first : kTile);",
            "Unit(row, first, kTile);",
        ),
        Mutation("a row too far", "uint32_t row = unit / tiles,", "uint32_t row = unit / tiles + 1,"),
        Mutation("rows are taken twice", "unit += GetBlockNum()", "unit += 1"),
        Mutation("tiles exceed the unified buffer", "kTile = 8192", "kTile = 16384"),
        Mutation(
            "the wide buffer is forgotten",
            "if constexpr (kThroughFloat) pipe_.InitBuffer(float_buffer_, kTile * sizeof(float));",
            "",
        ),
        Mutation(
            "the wide buffer is too narrow",
            "pipe_.InitBuffer(float_buffer_, kTile * sizeof(float));",
            "pipe_.InitBuffer(float_buffer_, kTile * sizeof(T));",
        ),
    ),
)


def vocabulary_launches() -> Iterator[Launch]:
    for name, dtype in (("int32", np.int32), ("int64", np.int64)):
        ids = np.arange(5003, dtype=dtype)
        out = (np.zeros(5003, np.int64), np.zeros(5003, np.uint8))
        for blocks in (1, 2):
            yield f"masked_vocabulary_index_{name}", (ids, *out, 5003, 100, 2000, 4000, 4100, 2100), blocks


VOCABULARY = Subject(
    "masked_vocabulary_index",
    ("masked_vocabulary_index_int32", "masked_vocabulary_index_int64"),
    vocabulary_launches,
    (
        Mutation("ids are not freed", "id_queue_.FreeTensor(loaded);", ""),
        Mutation("rows are not freed", "row_queue_.FreeTensor(rows);", ""),
        Mutation("the mask is not freed", "foreign_queue_.FreeTensor(foreign);", ""),
        Mutation("ids are not enqueued", "id_queue_.EnQue(loaded);", ""),
        Mutation("the two results change queues", "row_queue_.EnQue(rows);", "foreign_queue_.EnQue(rows);"),
        Mutation("the mask is not dequeued", "foreign = foreign_queue_.DeQue<uint8_t>();", ""),
        Mutation(
            "rows are freed before the copy",
            "DataCopyPad(rows_[first], rows, row_copy);",
            "row_queue_.FreeTensor(rows); DataCopyPad(rows_[first], rows, row_copy);",
        ),
        Mutation("rows start one too far", "DataCopyPad(rows_[first]", "DataCopyPad(rows_[first + 1]"),
        Mutation("ids start one too far", "DataCopyPad(loaded, ids_[first]", "DataCopyPad(loaded, ids_[first + 1]"),
        Mutation(
            "the mask is as long as the rows",
            "DataCopyExtParams foreign_copy{1, length, 0",
            "DataCopyExtParams foreign_copy{1, (uint32_t)(length * sizeof(int64_t)), 0",
        ),
        Mutation(
            "the tail of the mask is copied in blocks",
            "DataCopyPad(foreign_[first], foreign, foreign_copy);",
            "DataCopy(foreign_[first], foreign, length);",
        ),
        Mutation("a comparison of part of a repeat", "(length + 63) / 64 * 64", "length"),
        Mutation(
            "the bits have too little room",
            "pipe_.InitBuffer(bit_buffer_, kTile / 8);",
            "pipe_.InitBuffer(bit_buffer_, kTile / 16);",
        ),
        Mutation("zeros are never written", "Duplicate(zero_buffer_.Get<half>(), (half)0.0f, kTile);", ""),
        Mutation(
            "results are in input queues",
            "TQue<TPosition::VECOUT, 1> row_queue_, foreign_queue_;",
            "TQue<TPosition::VECIN, 1> row_queue_, foreign_queue_;",
        ),
        Mutation(
            "blocks do not share the ids",
            "int32_t step = (int32_t)(GetBlockNum() * kTile);",
            "int32_t step = (int32_t)kTile;",
        ),
    ),
)


def penalty_launches() -> Iterator[Launch]:
    generator = np.random.default_rng(1)
    rows, vocab, prompt, output = 3, 8205, 2100, 70
    for name, dtype in (("float", np.float32), ("half", np.float16), ("bfloat16", np.uint16)):
        logits = np.ones((rows, vocab), dtype)
        ids = (generator.integers(0, vocab, (rows, prompt)), generator.integers(0, vocab, (rows, output)))
        factors = tuple(np.array(values, np.float32) for values in ((0.5, 0, 0.1), (0.1, 0, 0.2), (1.2, 1, 0.8)))
        sizes = (rows, vocab, prompt, output, np.int64(vocab), np.int64(prompt), np.int64(output))
        for blocks in (1, 4):
            yield f"apply_penalties_{name}", (logits, *ids, *factors, *sizes), blocks


PENALTIES = Subject(
    "apply_penalties",
    tuple(f"apply_penalties_{name}" for name in ("float", "half", "bfloat16")),
    penalty_launches,
    (
        Mutation("ids are not freed", "id_queue_.FreeTensor(wide);", ""),
        Mutation("logits are not freed", "in_queue_.FreeTensor(logits);", ""),
        Mutation("the result is not freed", "out_queue_.FreeTensor(result);", ""),
        Mutation("ids are not dequeued", "wide = id_queue_.DeQue<int64_t>();", ""),
        Mutation("logits are not enqueued", "in_queue_.EnQue(logits);", ""),
        Mutation("the result is not enqueued", "out_queue_.EnQue(result);", ""),
        Mutation("ids skip their queue", "id_queue_.EnQue(wide);\n            wide = id_queue_.DeQue<int64_t>();", ""),
        Mutation(
            "the result is in an input queue",
            "TQue<TPosition::VECOUT, 1> out_queue_;",
            "TQue<TPosition::VECIN, 1> out_queue_;",
        ),
        Mutation(
            "ids have half the room",
            "pipe_.InitBuffer(id_queue_, 2, kIds * sizeof(int64_t));",
            "pipe_.InitBuffer(id_queue_, 2, kIds * sizeof(int32_t));",
        ),
        Mutation(
            "the table is too small",
            "pipe_.InitBuffer(table_buffer_, kTile * sizeof(float));",
            "pipe_.InitBuffer(table_buffer_, kTile * sizeof(half));",
        ),
        Mutation("the table is never cleared", "Duplicate(table_buffer_.Get<float>(), 0.0f, length);", ""),
        Mutation("tokens outside the tile are entered", "if ((word & 1) == 0) continue;", ""),
        Mutation("a comparison of part of a repeat", "(length + kLanes - 1) / kLanes * kLanes", "length"),
        Mutation("ids one row too far", "row * ids.stride + begin", "(row + 1) * ids.stride + begin"),
        Mutation(
            "a tile too long",
            "uint32_t length = vocab_ - first < kTile ? vocab_ - first : kTile;",
            "uint32_t length = kTile;",
        ),
        Mutation("units are taken twice", "unit += GetBlockNum()", "unit += 1"),
    ),
)

SUBJECTS = (SLOT_MAPPING, GRAMMAR, VOCABULARY, PENALTIES)
SEEDED = [
    pytest.param(subject, number, id=f"{subject.kernel}: {mutation.name}")
    for subject in SUBJECTS
    for number, mutation in enumerate(subject.mutations)
]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.kernel)
def test_nothing_is_found_in_the_kernel_as_it_is(build: Any, kernel_source: Any, subject: Subject) -> None:
    assert first_fault(build(kernel_source(subject.kernel), subject.entries), subject) == ""


@pytest.mark.parametrize(("subject", "number"), SEEDED)
def test_a_seeded_fault_is_found(build_mutants: Any, kernel_source: Any, subject: Subject, number: int) -> None:
    program = build_mutants(*mutants(subject, kernel_source(subject.kernel)))
    assert first_fault(program, subject, f"_{number}") != ""
