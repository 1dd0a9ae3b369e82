"""zero_blocks on the simulator and on hostcann, against the reference and the blocks as slices."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import loading
from ascend_patch.kernels import zero_blocks as package

from .conftest import Simulate

NUMBERS = 6
"""Blocks of each cache."""


def table(values: list[int], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def segments(caches: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
    """One segment per cache, in words as vLLM counts them."""
    strides = [cache.stride(0) * cache.element_size() // 4 for cache in caches]
    return [table([cache.data_ptr() for cache in caches], torch.uint64), table(strides), table(sizes)]


def caches(sizes: list[int], gap: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Caches of ones with `size` words in a block and `gap` words behind each, which must stay."""
    per_word = 4 // dtype.itemsize
    return [torch.ones(NUMBERS, (size + gap) * per_word, dtype=dtype) for size in sizes]


def expected(before: list[torch.Tensor], sizes: list[int], blocks: list[int]) -> list[torch.Tensor]:
    results = [cache.clone() for cache in before]
    for cache, size in zip(results, sizes, strict=True):
        for block in blocks:
            cache[block, : size * 4 // cache.element_size()] = 0
    return results


word_counts = st.lists(
    st.one_of(st.integers(0, 90), st.sampled_from([16_383, 16_384, 16_385, 40_000])), min_size=0, max_size=5
)
chosen = st.lists(st.integers(0, NUMBERS - 1), unique=True, max_size=NUMBERS)
dtypes = st.sampled_from([torch.bfloat16, torch.int8, torch.float32])


@settings(max_examples=60, deadline=None)
@given(word_counts, st.sampled_from([0, 1, 7]), chosen, dtypes, st.sampled_from([1, 3, 40]))
@example([100_001], 3, [2], torch.bfloat16, 40)
def test_the_blocks_are_zero_and_nothing_else(
    simulate: Simulate, sizes: list[int], gap: int, blocks: list[int], dtype: torch.dtype, cores: int
) -> None:
    memory = caches(sizes, gap, dtype)
    wanted = expected(memory, sizes, blocks)
    on_reference = [cache.clone() for cache in memory]
    simulate(package, memory, *segments(memory, sizes), table(blocks), cores=cores)
    package.reference(on_reference, *segments(on_reference, sizes), table(blocks))
    for results in (memory, on_reference):
        assert all(torch.equal(result, want) for result, want in zip(results, wanted, strict=True))


def test_more_segments_and_blocks_than_fit_at_once(simulate: Simulate) -> None:
    memory = [torch.ones(4100, 1, dtype=torch.int32)]
    simulate(package, memory, *segments(memory, [1]), table(list(range(4099))))
    assert memory[0].flatten().tolist() == [0] * 4099 + [1]
    parts = [torch.ones(2, 3, dtype=torch.int32) for _ in range(1030)]
    simulate(package, parts, *segments(parts, [3] * 1030), table([1]))
    assert all(part.tolist() == [[1] * 3, [0] * 3] for part in parts)


@settings(max_examples=15, deadline=None)
@given(word_counts, st.sampled_from([0, 1, 7]), chosen, dtypes)
def test_the_operator_launches_it_on_the_device(
    npu: ModuleType, sizes: list[int], gap: int, blocks: list[int], dtype: torch.dtype
) -> None:
    assert loading.unavailable(package.KERNEL) is None
    before = caches(sizes, gap, dtype)
    memory = [cache.npu() for cache in before]
    tables = [part.npu() for part in segments(memory, sizes)]
    package.zero_blocks(memory, *tables, table(blocks).npu())
    for result, want in zip(memory, expected(before, sizes, blocks), strict=True):
        assert torch.equal(result.cpu(), want)


def test_the_reference_works_on_the_device(npu: ModuleType) -> None:
    before = caches([5, 9], 2, torch.bfloat16)
    memory = [cache.npu() for cache in before]
    package.reference(memory, *(part.npu() for part in segments(memory, [5, 9])), table([4, 0]).npu())
    for result, want in zip(memory, expected(before, [5, 9], [4, 0]), strict=True):
        assert torch.equal(result.cpu(), want)


def test_memory_that_was_not_named_is_refused_by_the_reference() -> None:
    memory = caches([5], 0, torch.int8)
    with pytest.raises(ValueError, match="are in none of the 1 tensors"):
        package.zero_blocks(memory, *segments(memory, [5]), table([NUMBERS]))


def test_torch_accepts_the_operator() -> None:
    memory = caches([5], 0, torch.float32)
    # The schema test clones its arguments, which would leave the addresses behind: no blocks.
    torch.library.opcheck(package.zero_blocks, (memory, *segments(memory, [5]), table([])))


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (1, torch.zeros(1), TypeError, "segment_addresses is torch.float32"),
        (2, table([1, 2]), ValueError, "have 1, 2 and 1 entries"),
        (3, table([1], torch.int32), TypeError, "segment_sizes is torch.int32"),
        (4, table([1], torch.int32), TypeError, "block_ids is torch.int32"),
        (4, table([1]).view(1, 1), ValueError, "block_ids has 2 dimensions"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, value: Any, error: type[Exception], words: str) -> None:
    memory = caches([5], 0, torch.float32)
    arguments = [memory, *segments(memory, [5]), table([0])]
    arguments[place] = value
    with pytest.raises(error, match=words):
        package.zero_blocks(*arguments)
