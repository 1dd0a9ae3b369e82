"""Seeded faults in the other kernels, a few each: their operators' tests run them with all checks on as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from .mutations import Launch, Mutation, Subject, first_fault, mutants

pytestmark = pytest.mark.slow

FLOATS = {"float": np.float32, "half": np.float16, "bfloat16": np.uint16}


def entries(kernel: str) -> tuple[str, ...]:
    return tuple(f"{kernel}_{name}" for name in FLOATS)


def addresses(arrays: list[np.ndarray]) -> np.ndarray:
    return np.array([array.ctypes.data for array in arrays], np.int64)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def min_p_launches() -> Iterator[Launch]:
    for name, dtype in FLOATS.items():
        temperature, min_p = np.array([0.7, 1, 0.5], np.float32), np.array([0, 0.1, 0.2], np.float32)
        arguments = (np.ones((3, 8300), dtype), temperature, min_p, 3, 8300, np.int64(8300))
        for blocks in (1, 2):
            yield f"min_p_temperature_{name}", arguments, blocks


MIN_P = Subject(
    "min_p_temperature",
    entries("min_p_temperature"),
    min_p_launches,
    (
        Mutation("logits are not freed in the search for the maximum", "in_queue_.FreeTensor(logits);", ""),
        Mutation("logits are not freed in the rewrite", "in_queue_.FreeTensor(logits);", "", 1),
        Mutation("results are not freed", "out_queue_.FreeTensor(result);", ""),
        Mutation("results are not enqueued", "out_queue_.EnQue(result);", ""),
        Mutation("results are in an input queue", "TQue<TPosition::VECOUT, 1> out_", "TQue<TPosition::VECIN, 1> out_"),
        Mutation("a comparison of part of a repeat", "(length + kLanes - 1) / kLanes * kLanes", "length"),
        Mutation("the maximum starts from anything", "Duplicate(largest, -__builtin_inff(), width);", ""),
        Mutation("the divisor is never written", "Duplicate(divisor, temperature, Length(0));", ""),
        Mutation("rows are taken twice", "row += GetBlockNum()", "row += 1"),
    ),
)


def logprob_launches() -> Iterator[Launch]:
    for name, dtype in FLOATS.items():
        tokens = np.array([[5, -1, 8299], [0, 1, 2], [3, 4, 9000]], np.int64)
        results = (np.zeros((3, 3), np.float32), np.zeros(3, np.int64))
        sizes = (3, 8300, 3, np.int64(8300), np.int64(3))
        for normalize in (1, 0):
            yield f"token_logprob_and_rank_{name}", (np.ones((3, 8300), dtype), tokens, *results, *sizes, normalize), 1


LOGPROB = Subject(
    "token_logprob_and_rank",
    entries("token_logprob_and_rank"),
    logprob_launches,
    (
        Mutation("logits are not freed", "in_queue_.FreeTensor(logits);", ""),
        Mutation("tokens are not freed", "token_queue_.FreeTensor(tokens);", ""),
        Mutation("the rank is not dequeued", "rank = rank_queue_.DeQue<int32_t>();", ""),
        Mutation("a comparison of part of a repeat", "(length + kLanes - 1) / kLanes * kLanes", "length"),
        Mutation("ones are never written", "Duplicate(one_buffer_.Get<float>(), 1.0f, kTile);", ""),
        Mutation("ranks are one row too far", "DataCopyPad(ranks_[row]", "DataCopyPad(ranks_[row + 1]"),
        Mutation(
            "tokens outside the vocabulary are looked up",
            "if (token < 0 || token >= (int64_t)vocab_) return -__builtin_inff();",
            "",
        ),
        Mutation("too many tokens", "columns_ - column < kTokens ? columns_ - column : kTokens", "kTokens"),
    ),
)


def recovered_launches() -> Iterator[Launch]:
    tokens, vocab = 5, 8300
    target, draft = (np.full((tokens, vocab), value, np.float32) for value in (0.5, 0.25))
    for probs in (draft, None):
        vectors = (np.zeros(tokens, np.int32), numbers(2, 2, 5), numbers(1, 8299, 4096, -1, 0))
        matrices = (probs, target, np.ones((3, vocab), np.float32))
        sizes = (3, tokens, vocab, np.int64(vocab), np.int64(vocab), np.int64(vocab))
        for blocks in (1, 2):
            yield "sample_recovered_tokens", (*vectors, *matrices, *sizes), blocks


RECOVERED = Subject(
    "sample_recovered_tokens",
    ("sample_recovered_tokens",),
    recovered_launches,
    (
        Mutation("draft probabilities are not freed", "draft_queue_.FreeTensor(other);", ""),
        Mutation("q is not freed", "q_queue_.FreeTensor(q);", ""),
        Mutation("what is loaded is not enqueued", "queue.EnQue(values);", ""),
        Mutation("the result is not dequeued", "result = out_queue_.DeQue<int32_t>();", ""),
        Mutation("ones are never written", "Duplicate(one_buffer_.Get<float>(), 1.0f, kTile);", ""),
        Mutation("every core takes all tokens", "if (token % GetBlockNum() == GetBlockIdx()) Token", "Token"),
        Mutation("the work space is too small", "kWork = 512", "kWork = 64"),
        Mutation("a row too far", "token * target_stride_ + first", "(token + 1) * target_stride_ + first"),
        Mutation("a tile too long", "vocab_ - first < kTile ? vocab_ - first : kTile", "kTile"),
    ),
)


def rejection_launches() -> Iterator[Launch]:
    vocab, tokens = 100, 4
    probs = np.full((tokens, vocab), 0.5, np.float32)
    vectors = (np.zeros((3, 4), np.int32), numbers(1, 1, 4), numbers(-1, 3, 4, 99))
    rest = (numbers(7, 8, 9), numbers(1, 2, 3, 4), np.full(tokens, 0.1, np.float64))
    sizes = (3, 3, vocab, 1, np.int64(vocab), np.int64(vocab))
    argmax, temperature = np.array([1, 3, 4, 5], np.int64), np.array([0.7, 0, 1], np.float32)
    yield "rejection_sample", (*vectors, probs, probs, argmax, *rest, temperature, None, *sizes), 1
    yield "rejection_sample", (*vectors, probs, probs, None, *rest, temperature, None, *sizes), 2


REJECTION = Subject(
    "rejection_sample",
    ("rejection_sample",),
    rejection_launches,
    (
        Mutation("vectors are not freed", "vector_queue_.FreeTensor(vectors_);", ""),
        Mutation("the output is not freed", "out_queue_.FreeTensor(output);", ""),
        Mutation("the output is not dequeued", "output = out_queue_.DeQue<int32_t>();", ""),
        Mutation("probabilities lie side by side", "DataCopyPad(probs_[i * kBlock]", "DataCopyPad(probs_[i]"),
        Mutation("padding is looked up", "if (!IsToken(draft)) continue;", ""),
        Mutation("placeholders are never written", "Duplicate(output, kPlaceholder, width_);", ""),
        Mutation("a row too far", "(uint64_t)request * width_], output", "(uint64_t)(request + 1) * width_], output"),
    ),
)


def inputs_launches() -> Iterator[Launch]:
    count = 1500
    read = [np.arange(count, dtype=np.int32), np.ones(count, np.int32), np.arange(count + 1, dtype=np.int32)]
    for blocks in (1, 2):
        written = (np.zeros(count, np.int32), np.zeros(count, np.int32))
        yield "eagle_prepare_inputs_padded", (*read, *written, count), blocks


INPUTS = Subject(
    "eagle_prepare_inputs_padded",
    ("eagle_prepare_inputs_padded",),
    inputs_launches,
    (
        Mutation("earlier sums are not freed", "before_queue_.FreeTensor(before);", ""),
        Mutation("earlier sums are not enqueued", "before_queue_.EnQue(before);", ""),
        Mutation("ends are one too far", "starts_, first + 1, length", "starts_, first + 2, length"),
        Mutation("sums are two too far", "cu_drafts_[first - 1]", "cu_drafts_[first + 1]"),
        Mutation("half the room", "draft_buffer_, kTile * sizeof(int32_t)", "draft_buffer_, kTile * sizeof(int16_t)"),
        Mutation("tiles are taken twice", "(int32_t)(GetBlockNum() * kTile);", "(int32_t)kTile;"),
    ),
)


def next_token_launches() -> Iterator[Launch]:
    count, columns = 300, 5
    for stride in (columns, 7):
        sampled = np.arange((count - 1) * stride + columns, dtype=np.int32)
        vectors = (np.zeros(count, np.uint8), *(np.zeros(count, np.int32) for _ in range(3)))
        for blocks in (1, 2):
            yield "eagle_prepare_next_token_padded", (sampled, *vectors, count, columns, stride, 1000), blocks


NEXT_TOKEN = Subject(
    "eagle_prepare_next_token_padded",
    ("eagle_prepare_next_token_padded",),
    next_token_launches,
    (
        Mutation("rows are not freed", "row_queue_.FreeTensor(rows);", ""),
        Mutation("flags are not enqueued", "discard_queue_.EnQue(discard);", ""),
        Mutation("flags are never converted", "Cast(kept, halves, RoundMode::CAST_RINT, length);", ""),
        Mutation("a column too far", "column * sizeof(int32_t), length", "(column + 1) * sizeof(int32_t), length"),
        Mutation("a row too far", "(uint64_t)first * row_stride_", "(uint64_t)(first + 1) * row_stride_"),
        Mutation("half the room", "half_buffer_, kTile * sizeof(half)", "half_buffer_, kTile"),
        Mutation("tiles are taken twice", "(int32_t)(GetBlockNum() * tile_);", "(int32_t)tile_;"),
    ),
)


def step_launches() -> Iterator[Launch]:
    count, padded, columns = 40, 70, 6
    for blocks in (1, 2):
        # The last position lies behind the last column.
        positions, table = np.arange(count, dtype=np.int64) * 3, np.ones((count, columns), np.int32)
        lengths, following, slots = np.ones(count, np.int32), np.zeros(count, np.int64), np.zeros(padded, np.int64)
        sizes = (count, padded, columns, columns, 16, 500)
        yield "eagle_step_metadata", (positions, table, lengths, following, slots, *sizes), blocks


STEP = Subject(
    "eagle_step_metadata",
    ("eagle_step_metadata",),
    step_launches,
    (
        Mutation("columns beyond the last", "if (column > columns_ - 1) column = columns_ - 1;", ""),
        Mutation("words lie side by side", "DataCopyPad(blocks[i * kPerBlock]", "DataCopyPad(blocks[i]"),
        Mutation("too little room", "kTile * kPerBlock * sizeof(int32_t)", "kTile * sizeof(int32_t)"),
        Mutation("slots are one too far", "DataCopyPad(slots_[first]", "DataCopyPad(slots_[first + 1]"),
        Mutation("a row too far", "(uint64_t)(first + i) * row_stride_", "(uint64_t)(first + i + 1) * row_stride_"),
        Mutation(
            "padding is never written",
            "for (int32_t i = real > 0 ? real : 0; i < count; ++i) slots.SetValue(i, (int64_t)kPadding);",
            "",
        ),
        Mutation("tiles are taken twice", "(int32_t)GetBlockNum() * kTile;", "kTile;"),
    ),
)


def copy_launches() -> Iterator[Launch]:
    size = 3 * 65536 + 10
    caches = [np.ones((6, size), np.uint8) for _ in range(2)]
    base, pitches = addresses(caches), np.full(2, size, np.int64)
    pairs = np.array([[0, 3], [1, 4], [2, 5]], np.int64)
    for blocks, share in ((1, 1), (8, 2)):
        arguments = (base, base, pitches, pitches, np.full(2, size, np.int64), pairs, 2, 3, share)
        yield "copy_blocks_int64", arguments, blocks, *caches
    targets = base + 2 * size
    arguments = (base, targets, None, None, numbers(size, size), None, 2, 1, 1)
    yield "copy_blocks_int32", arguments, 2, *caches


COPY = Subject(
    "copy_blocks",
    ("copy_blocks_int64", "copy_blocks_int32"),
    copy_launches,
    (
        Mutation("data is not freed", "data_queue_.FreeTensor(data);", ""),
        Mutation("data is not enqueued", "data_queue_.EnQue(data);", ""),
        Mutation("data is not dequeued", "data = data_queue_.DeQue<uint8_t>();", ""),
        Mutation("a chunk too long", "size - at < kChunk ? size - at : kChunk", "kChunk"),
        Mutation("every core takes all chunks", "int64_t step = (int64_t)share_ * kChunk;", "int64_t step = kChunk;"),
        Mutation("half of the pairs are loaded", "pairs_, pair * 2, pairs * 2", "pairs_, pair * 2, pairs"),
        Mutation("sizes are never loaded", "Load(size_buffer_, sizes_, region, regions);", ""),
        Mutation("blocks are taken twice", "unit += groups", "unit += 1"),
    ),
)


def zero_launches() -> Iterator[Launch]:
    words = 2 * 16384 + 5
    caches = [np.ones((3, words), np.int32) for _ in range(2)]
    lengths, blocks = np.full(2, words, np.int64), np.array([2, 0], np.int64)
    for cores, share in ((1, 1), (8, 2)):
        yield "zero_blocks", (addresses(caches), lengths, lengths, blocks, 2, 2, share), cores, *caches


ZERO = Subject(
    "zero_blocks",
    ("zero_blocks",),
    zero_launches,
    (
        Mutation("zeros are not waited for", "Order<HardEvent::V_MTE3>();", ""),
        Mutation("zeros are never written", "Duplicate(zero_buffer_.Get<int32_t>(), 0, kChunk);", ""),
        Mutation("a chunk too long", "size - word < (int64_t)kChunk ? (uint32_t)(size - word) : kChunk", "kChunk"),
        Mutation("half the room", "zero_buffer_, kChunk * sizeof(int32_t)", "zero_buffer_, kChunk * sizeof(int16_t)"),
        Mutation("a block too far", "numbers.GetValue(unit % blocks) *", "(numbers.GetValue(unit % blocks) + 1) *"),
        Mutation("sizes are never loaded", "Load(size_buffer_, sizes_, segment, segments);", ""),
        Mutation("blocks are zeroed twice", "unit += groups", "unit += 1"),
    ),
)


def shrink_launches() -> Iterator[Launch]:
    tokens, hidden, rank = 10, 2100, 5
    mapping, order = numbers(0, 0, -1, 1, 1, 1, 0, 0, -1, 1), np.arange(tokens, dtype=np.int32)[::-1].copy()
    for name, dtype in FLOATS.items():
        weights = [np.ones((2, rank, hidden), dtype) for _ in range(2)]
        inputs, output = np.ones((tokens, hidden), dtype), np.zeros((2, tokens, rank), np.float32)
        for blocks, ordered in ((1, order), (3, None)):
            arguments = (inputs, addresses(weights), output, mapping, ordered, tokens, 2, rank, hidden, 3, 0.5)
            yield f"lora_shrink_{name}", arguments, blocks, *weights


SHRINK = Subject(
    "lora_shrink",
    entries("lora_shrink"),
    shrink_launches,
    (
        Mutation("weights are not freed", "weight_queue_.FreeTensor(row);", ""),
        Mutation("inputs are not freed", "input_queue_.FreeTensor(loaded);", ""),
        Mutation("weights are not enqueued", "weight_queue_.EnQue(row);", ""),
        Mutation("results are not freed", "output_queue_.FreeTensor(results);", ""),
        Mutation("words lie side by side", "DataCopyPad(words[i * kPerBlock]", "DataCopyPad(words[i]"),
        Mutation("no adapter is looked up", "if (lora_[begin] < 0) continue;", ""),
        Mutation("totals start from anything", "Duplicate(totals, 0.0f, kTokens * kRanks);", ""),
        Mutation("a tile too wide", "hidden_ - column < kColumns ? hidden_ - column : kColumns", "kColumns"),
        Mutation("units are taken twice", "unit += (int32_t)GetBlockNum()", "unit += 1"),
    ),
)


def expand_launches() -> Iterator[Launch]:
    # Rows of 17 are padded to 32, which leaves a gap behind what the transfer pads.
    tokens, width, rank, pitch = 10, 100, 17, 32
    mapping, order = numbers(0, 0, -1, 1, 1, 1, 0, 0, -1, 1), np.arange(tokens, dtype=np.int32)[::-1].copy()
    widths, offsets = np.full(2, width, np.int64), np.array([0, width], np.int64)
    for name, dtype in FLOATS.items():
        weights = [np.ones((2, width, rank), dtype) for _ in range(2)]
        inputs, output = np.ones((2, tokens, rank), np.float32), np.ones((tokens, 2 * width), dtype)
        for blocks, ordered in ((1, order), (3, None)):
            tables = (addresses(weights), widths, offsets, output, mapping, ordered)
            sizes = (tokens, 2, rank, pitch, 64, 2, 2 * width, 0, 1)
            yield f"lora_expand_{name}", (inputs, *tables, *sizes), blocks, *weights


EXPAND = Subject(
    "lora_expand",
    entries("lora_expand"),
    expand_launches,
    (
        Mutation("weights are not freed", "weight_queue_.FreeTensor(loaded);", ""),
        Mutation("results are not freed", "new_queue_.FreeTensor(results);", ""),
        Mutation("old values are not enqueued", "old_queue_.EnQue(old);", ""),
        Mutation(
            "gaps of inputs are never written",
            "Duplicate(loaded.template ReinterpretCast<Raw>(), (Raw)0, kTokens * kRank);",
            "",
            missed="vector instructions with a count may run over tails that nothing has written",
        ),
        Mutation("gaps of weights are never written", "Duplicate(bits, (Bits)0, rows * pitch_);", ""),
        Mutation("zeros of inputs are not waited for", "Order<HardEvent::V_MTE2>();", ""),
        Mutation("zeros of weights are not waited for", "Order<HardEvent::V_MTE2>();", "", 1),
        Mutation("a column too far", "output_width_ + column, rows", "output_width_ + column + 1, rows"),
        Mutation("a tile too long", "width - row < rows_ ? width - row : rows_", "rows_"),
        Mutation("units are taken twice", "unit += (int32_t)GetBlockNum()", "unit += 1"),
    ),
)

SUBJECTS = (MIN_P, LOGPROB, RECOVERED, REJECTION, INPUTS, NEXT_TOKEN, STEP, COPY, ZERO, SHRINK, EXPAND)
SEEDED = [
    pytest.param(
        subject,
        number,
        id=f"{subject.kernel}: {mutation.name}",
        marks=[pytest.mark.xfail(reason=mutation.missed, strict=True)] if mutation.missed else [],
    )
    for subject in SUBJECTS
    for number, mutation in enumerate(subject.mutations)
]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.kernel)
def test_nothing_is_found_in_the_kernel_as_it_is(build_mutants: Any, kernel_source: Any, subject: Subject) -> None:
    program = build_mutants(*mutants(subject, kernel_source(subject.kernel)))
    assert first_fault(program, subject, f"_{len(subject.mutations)}") == ""


@pytest.mark.parametrize(("subject", "number"), SEEDED)
def test_a_seeded_fault_is_found(build_mutants: Any, kernel_source: Any, subject: Subject, number: int) -> None:
    program = build_mutants(*mutants(subject, kernel_source(subject.kernel)))
    assert first_fault(program, subject, f"_{number}") != ""
