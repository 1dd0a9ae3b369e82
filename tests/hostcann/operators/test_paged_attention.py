"""aclnnFusedInferAttentionScore with a block table and without, in every layout and mask mode."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .formulas import assert_close, attention, random, triangle, visible

HALVES = (torch.float16, torch.bfloat16)


class Batch:
    """Random requests over a paged cache, and their reference."""

    def __init__(
        self,
        queries: list[int],
        keys: list[int],
        *,
        heads: int = 4,
        kv_heads: int = 2,
        size: int = 64,
        block: int = 128,
        dtype: torch.dtype = torch.bfloat16,
        heads_first: bool = False,
        seed: int = 0,
    ) -> None:
        self.queries, self.keys, self.heads, self.kv_heads, self.size = queries, keys, heads, kv_heads, size
        self.block, self.scale = block, size**-0.5
        needed = [-(-k // block) for k in keys]
        columns = max(1, *needed)
        blocks = sum(needed) + 2
        order = torch.randperm(blocks, generator=torch.Generator().manual_seed(seed)).tolist()
        self.table = torch.full((len(keys), columns), 999, dtype=torch.int32)  # unused entries must not be read
        for row, count in enumerate(needed):
            for column in range(count):
                self.table[row, column] = order.pop()
        self.query = random(sum(queries), heads, size, dtype=dtype, seed=seed)
        self.k, self.v = (random(blocks, block, kv_heads, size, dtype=dtype, seed=seed + i) for i in (1, 2))
        self.heads_first = heads_first

    def cache(self, cache: torch.Tensor) -> torch.Tensor:
        return (cache.transpose(1, 2).contiguous() if self.heads_first else cache.flatten(2)).npu()

    def run(self, mode: int, before: int = 2147483647, after: int = 2147483647, **more: Any) -> Any:
        return torch.ops.npu.npu_fused_infer_attention_score(
            self.query.npu(),
            self.cache(self.k),
            self.cache(self.v),
            atten_mask=triangle().npu() if mode else None,
            block_table=self.table.npu(),
            actual_seq_lengths=list(accumulate(self.queries)),
            actual_seq_lengths_kv=self.keys,
            num_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            scale=self.scale,
            pre_tokens=before,
            next_tokens=after,
            input_layout="TND",
            block_size=self.block,
            sparse_mode=mode,
            **more,
        )

    def expected(self, mode: int, before: int = 0, after: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        parts, start = [], 0
        for row, (count, length) in enumerate(zip(self.queries, self.keys, strict=True)):
            rows = self.table[row, : -(-length // self.block)].long()
            k, v = (c[rows].reshape(-1, self.kv_heads, self.size)[:length] for c in (self.k, self.v))
            allowed = visible(count, length, mode, before, after) if mode else None
            parts.append(attention(self.query[start : start + count], k, v, self.scale, allowed))
            start += count
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (9, 3), (8, 2), (7, 1), (10, 2)])
def test_mixed_batch(heads: int, kv_heads: int, heads_first: bool, dtype: torch.dtype) -> None:
    batch = Batch(
        [1, 5, 130, 1], [200, 5, 140, 128], heads=heads, kv_heads=kv_heads, heads_first=heads_first, dtype=dtype
    )
    out, lse = batch.run(3, softmax_lse_flag=True)
    expected, expected_lse = batch.expected(3)
    assert_close(out, expected)
    assert_close(lse.squeeze(-1), expected_lse)


@pytest.mark.parametrize("size", [16, 48, 64, 80, 128, 256])
def test_head_sizes(size: int) -> None:
    batch = Batch([1, 3], [129, 64], size=size)
    assert_close(batch.run(3)[0], batch.expected(3)[0])


@pytest.mark.parametrize("block", [16, 48, 128, 512])
def test_block_sizes(block: int) -> None:
    batch = Batch([2, 1], [2 * block + 3, block], block=block)
    assert_close(batch.run(3)[0], batch.expected(3)[0])


@pytest.mark.parametrize(("before", "after"), [(0, 0), (7, 0), (127, 0), (300, 0), (3, 2)])
def test_sliding_window(before: int, after: int) -> None:
    batch = Batch([1, 6, 140], [300, 257, 140])
    assert_close(batch.run(4, before, after)[0], batch.expected(4, before, after)[0])


def test_blocks_before_the_window_are_not_read() -> None:
    batch = Batch([1], [400])
    expected = batch.expected(4, 50, 0)[0]
    batch.table[0, :2] = 999  # freed by the block manager
    assert_close(batch.run(4, 50, 0)[0], expected)


def test_without_a_mask_everything_is_visible() -> None:
    batch = Batch([3, 1], [130, 7])
    assert_close(batch.run(0)[0], batch.expected(0)[0])


def test_empty_requests() -> None:
    batch = Batch([2, 0, 1, 1], [0, 5, 9, 0])
    out, lse = batch.run(3, softmax_lse_flag=True)
    expected, expected_lse = batch.expected(3)
    assert_close(out, expected)
    assert_close(lse.squeeze(-1), expected_lse)
    assert not out[:2].any() and torch.isinf(lse[3]).all()


def test_no_tokens_at_all() -> None:
    assert Batch([0], [0]).run(3)[0].shape == (0, 4, 64)


def test_a_block_outside_the_cache_is_refused() -> None:
    batch = Batch([1], [200])
    batch.table[0, 1] = 77
    with pytest.raises(RuntimeError, match=r"blockTable\[0\]\[1\] is 77"):
        batch.run(3)


def test_a_mask_that_is_not_triangular_is_refused() -> None:
    batch = Batch([1], [20])
    with pytest.raises(RuntimeError, match="attenMask must be 1 above the diagonal"):
        torch.ops.npu.npu_fused_infer_attention_score(
            batch.query.npu(),
            batch.cache(batch.k),
            batch.cache(batch.v),
            atten_mask=~triangle().npu(),
            block_table=batch.table.npu(),
            actual_seq_lengths=[1],
            actual_seq_lengths_kv=[20],
            num_heads=4,
            num_key_value_heads=2,
            input_layout="TND",
            block_size=128,
            sparse_mode=3,
        )


def test_shapes_and_types_are_those_of_the_meta_kernel() -> None:
    batch = Batch([1, 2], [5, 9])
    for flag in (False, True):
        real = batch.run(3, softmax_lse_flag=flag)
        meta = torch.ops.npu.npu_fused_infer_attention_score(
            batch.query.to("meta"),
            batch.k.flatten(2).to("meta"),
            batch.v.flatten(2).to("meta"),
            block_table=batch.table.to("meta"),
            actual_seq_lengths=[1, 3],
            actual_seq_lengths_kv=[5, 9],
            num_heads=4,
            num_key_value_heads=2,
            input_layout="TND",
            block_size=128,
            sparse_mode=3,
            softmax_lse_flag=flag,
        )
        assert [(t.shape, t.dtype) for t in real] == [(t.shape, t.dtype) for t in meta]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_batch(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    keys = data.draw(st.lists(st.integers(0, 150), min_size=count, max_size=count))
    queries = [data.draw(st.integers(0, max(1, min(20, k)))) for k in keys]
    kv_heads = data.draw(st.integers(1, 3))
    batch = Batch(
        queries,
        keys,
        kv_heads=kv_heads,
        heads=kv_heads * data.draw(st.integers(1, 5)),
        size=data.draw(st.sampled_from([16, 64])),
        heads_first=data.draw(st.booleans()),
        dtype=data.draw(st.sampled_from(HALVES)),
        seed=data.draw(st.integers(0, 99)),
    )
    window = data.draw(st.one_of(st.none(), st.integers(0, 40)))
    mode, before = (3, 0) if window is None else (4, window)
    out = batch.run(mode) if window is None else batch.run(mode, before, 0)
    assert_close(out[0], batch.expected(mode, before)[0])
