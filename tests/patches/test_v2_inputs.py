"""Model runner V2's preparation of a batch against loops over requests and tokens."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ascend_patch.patches.worker import _v2_inputs as inputs

pytestmark = pytest.mark.usefixtures("device")
MAX_TOKENS, MAX_REQUESTS, WIDTH = 96, 9, 40


class Batch:
    """Requests of random progress in random rows of the states."""

    def __init__(self, seed: int) -> None:
        chooser = random.Random(seed)
        self.rows = chooser.sample(range(MAX_REQUESTS), chooser.randint(1, MAX_REQUESTS))
        self.prefill = [chooser.randint(1, 30) for _ in range(MAX_REQUESTS)]
        self.computed = [chooser.randint(0, 34) for _ in range(MAX_REQUESTS)]
        self.tokens = [[chooser.randint(0, 500) for _ in range(WIDTH)] for _ in range(MAX_REQUESTS)]
        self.last = [chooser.randint(501, 900) for _ in range(MAX_REQUESTS)]
        self.lengths = [
            1 if self.computed[row] >= self.prefill[row] else chooser.randint(1, self.prefill[row] - self.computed[row])
            for row in self.rows
        ]
        self.lengths = [min(length, 10) for length in self.lengths]
        self.starts = [sum(self.lengths[:index]) for index in range(len(self.rows) + 1)]

    def __iter__(self) -> Any:
        return iter(zip(range(len(self.rows)), self.rows, self.starts, self.lengths, strict=False))


def int32(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32).npu()


def int64(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64).npu()


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_staged_writes(dtype: torch.dtype, single: bool) -> None:
    chooser = random.Random(1)
    before = [[chooser.randint(0, 99) for _ in range(20)] for _ in range(6)]
    expected = [list(row) for row in before]
    rows, starts, contents, ends = [4, 1, 5], [0, 11, 3], [], []
    for row, start in zip(rows, starts, strict=True):
        piece = [chooser.randint(100, 199) for _ in range(1 if single else chooser.randint(1, 9))]
        expected[row][start : start + len(piece)] = piece
        contents += piece
        ends.append(len(contents))
    output = torch.tensor(before, dtype=dtype).npu()
    inputs.apply_write[(3,)](
        output, output.stride(0), int32(rows), int32(starts), torch.tensor(contents, dtype=dtype).npu(), int32(ends),
        None, BLOCK_SIZE=1024, MULTI_GROUP=False,
    )  # fmt: skip
    assert output.cpu().tolist() == expected


@pytest.mark.parametrize("windowed", [False, True])
def test_block_tables_are_gathered(windowed: bool) -> None:
    batch = Batch(2)
    widths, reach, sizes = (5, 7), (0, 9), (16, 4)
    sources = [
        [[100 * group + 10 * row + column + 1 for column in range(width)] for row in range(MAX_REQUESTS)]
        for group, width in enumerate(widths)
    ]
    destinations = tuple(int32([[-7] * width] * MAX_REQUESTS) for width in widths)
    requests, padded = len(batch.rows), min(len(batch.rows) + 2, MAX_REQUESTS)
    blocks = int32([[width] * MAX_REQUESTS for width in widths])
    extra = (int32(batch.computed), int32(reach), int32(sizes)) if windowed else ()
    options = {"MASK_SLIDING_WINDOW": True} if windowed else {}
    inputs.gather_block_tables[(2, padded)](
        int64(batch.rows), tuple(int32(source) for source in sources), destinations, int64(widths), blocks,
        MAX_REQUESTS, requests, *extra, BLOCK_SIZE=1024, **options,
    )  # fmt: skip
    for group, (source, destination) in enumerate(zip(sources, destinations, strict=True)):
        found = destination.cpu().tolist()
        for index, row in enumerate(batch.rows):
            hidden = max(batch.computed[row] - reach[group], 0) // sizes[group] if windowed and reach[group] else 0
            assert found[index] == [0 if column < hidden else entry for column, entry in enumerate(source[row])]
        assert found[requests:padded] == [[0] * widths[group]] * (padded - requests)
        assert found[padded:] == [[-7] * widths[group]] * (MAX_REQUESTS - padded)


@pytest.mark.parametrize("block_size", [4, 6])
def test_slot_mappings(block_size: int) -> None:
    batch = Batch(3)
    table = [[50 * row + column for column in range(WIDTH)] for row in range(MAX_REQUESTS)]
    positions = [batch.computed[row] + offset for _, row, _, length in batch for offset in range(length)]
    self = SimpleNamespace(
        slot_mappings=torch.full((1, MAX_TOKENS), 77).npu(),
        block_tables=[SimpleNamespace(gpu=int32(table))],
        block_sizes=[block_size],
    )
    total = batch.starts[-1]
    found = inputs.compute_slot_mappings(self, int64(batch.rows), int32(batch.starts), int64(positions), total)
    expected = [
        table[row][(batch.computed[row] + offset) // block_size] * block_size
        + (batch.computed[row] + offset) % block_size
        for _, row, _, length in batch
        for offset in range(length)
    ]
    assert found.cpu().tolist() == [expected]
    assert self.slot_mappings.cpu()[0, total:].tolist() == [-1] * (MAX_TOKENS - total)


@pytest.mark.parametrize("seed", range(4))
def test_tokens_positions_and_lengths(seed: int) -> None:
    batch = Batch(seed)
    requests, total = len(batch.rows), batch.starts[-1]
    ids, positions = int32([-1] * MAX_TOKENS), int64([-1] * MAX_TOKENS)
    lens, picked = int32([99] * MAX_REQUESTS), int64([-1] * requests)
    rows, starts = int64(batch.rows), int32(batch.starts)
    prefill, computed, tokens = int32(batch.prefill), int32(batch.computed), int32(batch.tokens)
    inputs.prepare_prefill_inputs[(requests,)](
        ids, None, 0, 1, rows, starts, tokens, WIDTH, prefill, computed, BLOCK_SIZE=1024, LOOKAHEAD_BLOCK=1
    )
    inputs.prepare_pos_seq_lens[(requests + 1,)](positions, lens, rows, starts, computed, MAX_REQUESTS, BLOCK_SIZE=1024)
    inputs.combine_sampled_tokens[(requests,)](
        ids, rows, int64(batch.last).unsqueeze(1), starts, lens, prefill, None, 0, int32(range(requests + 1)), picked,
        BLOCK_SIZE=1, NUM_NEW_SAMPLED_TOKENS=1,
    )  # fmt: skip
    expected_ids, expected_positions, expected_lens = [-1] * MAX_TOKENS, [], []
    for _, row, start, length in batch:
        for offset in range(length):
            position = batch.computed[row] + offset
            decodes = position >= batch.prefill[row]
            expected_ids[start + offset] = batch.last[row] if decodes else batch.tokens[row][position]
            expected_positions.append(position)
        expected_lens.append(batch.computed[row] + length)
    assert ids.cpu().tolist() == expected_ids
    assert positions.cpu()[:total].tolist() == expected_positions
    assert lens.cpu().tolist() == expected_lens + [0] * (MAX_REQUESTS - requests)
    assert picked.cpu().tolist() == [end - 1 for end in batch.starts[1:]]


@pytest.mark.parametrize("seed", range(4))
def test_results_are_entered(seed: int) -> None:
    batch = Batch(seed)
    requests, vocabulary = len(batch.rows), 30
    lens = [batch.computed[row] + length for _, row, _, length in batch]
    sampled = int32([1] * requests)
    rejected = int32([5] * requests)
    inputs.get_num_sampled_and_rejected[(requests,)](
        sampled, rejected, int32(lens), int32(range(requests + 1)), int64(batch.rows), int32(batch.prefill)
    )
    done = [int(length >= batch.prefill[row]) for length, row in zip(lens, batch.rows, strict=True)]
    assert sampled.cpu().tolist() == done and rejected.cpu().tolist() == [0] * requests

    chooser = random.Random(seed)
    drawn = [chooser.randrange(vocabulary) for _ in range(requests)]
    total = [chooser.randint(1, WIDTH - 1) for _ in range(MAX_REQUESTS)]
    state = {
        "computed": int32(batch.computed), "last": int64(batch.last).unsqueeze(1), "total": int32(total),
        "counts": int32([[1] * vocabulary] * MAX_REQUESTS), "tokens": int32(batch.tokens),
    }  # fmt: skip
    inputs.post_update[(requests,)](
        int64(batch.rows), state["computed"], state["last"], state["counts"], vocabulary, int64(drawn).unsqueeze(1), 1,
        sampled, rejected, int32(batch.starts), state["tokens"], WIDTH, state["total"], num_warps=1,
    )  # fmt: skip
    counts = [[1] * vocabulary for _ in range(MAX_REQUESTS)]
    for index, row, _, length in batch:
        batch.computed[row] += length
        if done[index]:
            batch.last[row] = drawn[index]
            batch.tokens[row][total[row]] = drawn[index]
            counts[row][drawn[index]] += 1
            total[row] += 1
    assert state["computed"].cpu().tolist() == batch.computed
    assert state["last"].cpu().view(-1).tolist() == batch.last
    assert state["total"].cpu().tolist() == total
    assert state["tokens"].cpu().tolist() == batch.tokens
    assert state["counts"].cpu().tolist() == counts


def test_a_buffer_without_unified_addresses_is_pinned() -> None:
    buffer = SimpleNamespace()
    inputs.pinned_and_device_buffer(buffer, (2, 3), torch.int32)
    buffer.np[:] = 4
    assert buffer.cpu.is_pinned() and buffer.cpu.tolist() == [[4] * 3] * 2
    assert buffer._uva.device.type == "npu" and buffer._uva.shape == (2, 3)
