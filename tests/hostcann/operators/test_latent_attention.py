"""Latent attention (queries and keys in two parts, one key head), and joining attention over two parts of the keys."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from .formulas import FLOATS, assert_close, attention, random, triangle, visible

HALVES = (torch.float16, torch.bfloat16)
SCALE = 0.1


class Latent:
    """Requests with `rows` new tokens each, over a shuffled cache of two planes."""

    def __init__(self, lengths: list[int], rows: int, heads: int, dtype: torch.dtype, block: int = 128) -> None:
        self.lengths, self.rows, self.heads, self.block = lengths, rows, heads, block
        columns = max(-(-length // block) for length in lengths)
        blocks = columns * len(lengths) + 3
        order = torch.randperm(blocks, generator=torch.Generator().manual_seed(7))
        self.table = order[: columns * len(lengths)].view(len(lengths), columns).int()
        self.query = random(len(lengths), rows, heads, 512, dtype=dtype)
        self.query_rope = random(len(lengths), rows, heads, 64, dtype=dtype, seed=1)
        self.latents = random(blocks, block, 512, dtype=dtype, seed=2)
        self.ropes = random(blocks, block, 64, dtype=dtype, seed=3)

    def run(self, layout: str) -> torch.Tensor:
        def arrange(tensor: torch.Tensor) -> torch.Tensor:
            shapes = {
                "BSND": tensor,
                "BSH": tensor.flatten(2),
                "BNSD": tensor.transpose(1, 2),
                "TND": tensor.flatten(0, 1),
            }
            return shapes[layout].contiguous().npu()

        several = self.rows > 1
        ends = list(accumulate([self.rows] * len(self.lengths)))
        latents = self.latents.npu()
        out = torch.ops.npu.npu_fused_infer_attention_score(
            arrange(self.query),
            latents,
            latents,
            query_rope=arrange(self.query_rope),
            key_rope=self.ropes.npu(),
            atten_mask=triangle().npu() if several else None,
            sparse_mode=3 if several else 0,
            actual_seq_lengths=ends if layout == "TND" else None,
            actual_seq_lengths_kv=self.lengths,
            block_table=self.table.npu(),
            num_heads=self.heads,
            num_key_value_heads=1,
            scale=SCALE,
            input_layout=layout,
            block_size=self.block,
        )[0].cpu()
        if layout == "BNSD":
            out = out.transpose(1, 2)
        return out.reshape(self.query.shape)

    def expected(self) -> torch.Tensor:
        """Keys are both parts side by side, values the first part."""
        parts = []
        for row, length in enumerate(self.lengths):
            blocks = self.table[row].long()
            latents = self.latents[blocks].reshape(-1, 1, 512)[:length]
            ropes = self.ropes[blocks].reshape(-1, 1, 64)[:length]
            query = torch.cat((self.query[row], self.query_rope[row]), -1)
            allowed = visible(self.rows, length, 3, 0, 0)
            parts.append(attention(query, torch.cat((latents, ropes), -1), latents, SCALE, allowed)[0])
        return torch.stack(parts)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("layout", ["BSND", "BSH", "BNSD"])
@pytest.mark.parametrize("heads", [1, 2, 16, 128])
def test_one_row_per_request(heads: int, layout: str, dtype: torch.dtype) -> None:
    batch = Latent([1, 130, 200], 1, heads, dtype)
    assert_close(batch.run(layout), batch.expected(), dtype)


@pytest.mark.parametrize("layout", ["BSND", "BNSD", "TND"])
def test_several_rows_per_request(layout: str) -> None:
    batch = Latent([3, 130, 200], 3, 32, torch.bfloat16)
    assert_close(batch.run(layout), batch.expected(), torch.bfloat16)


def test_small_blocks() -> None:
    batch = Latent([5, 40], 1, 4, torch.float16, block=16)
    assert_close(batch.run("BSND"), batch.expected(), torch.float16)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("causal", [True, False])
def test_keys_wider_than_values(causal: bool, dtype: torch.dtype) -> None:
    """What a prompt attends to once latent vectors are multiplied out."""
    queries, keys = [1, 7, 130], [9, 7, 150]
    q, k, v = (
        random(sum(n), 3, size, dtype=dtype, seed=seed)
        for seed, (n, size) in enumerate(((queries, 192), (keys, 192), (keys, 128)))
    )
    out, lse = torch.ops.npu.npu_fused_infer_attention_score(
        q.npu(),
        k.npu(),
        v.npu(),
        atten_mask=triangle().npu() if causal else None,
        sparse_mode=3 if causal else 0,
        actual_seq_lengths=list(accumulate(queries)),
        actual_seq_lengths_kv=list(accumulate(keys)),
        num_heads=3,
        num_key_value_heads=3,
        scale=SCALE,
        input_layout="TND",
        softmax_lse_flag=True,
    )
    a = b = 0
    for count, length in zip(queries, keys, strict=True):
        allowed = visible(count, length, 3, 0, 0) if causal else None
        expected, expected_lse = attention(q[a : a + count], k[b : b + length], v[b : b + length], SCALE, allowed)
        assert_close(out[a : a + count], expected)
        assert_close(lse[a : a + count].squeeze(-1), expected_lse)
        a, b = a + count, b + length


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [0, 1])
def test_joining_two_parts(kind: int, dtype: torch.dtype) -> None:
    """Against attention over all keys at once."""
    rows, first, rest, size = 5, 7, 11, 64
    q, k, v = (
        random(n, 2, size, dtype=torch.float32, seed=s) for s, n in enumerate((rows, first + rest, first + rest))
    )
    parts = [attention(q, k[a:b], v[a:b], SCALE, None) for a, b in ((0, first), (first, first + rest))]
    rounded = [part[0].to(dtype) for part in parts]
    out, lse = torch.ops.npu.npu_attention_update(
        [part[1].float().flatten().contiguous().npu() for part in parts],
        [part.flatten(0, 1).contiguous().npu() for part in rounded],
        kind,
    )
    expected, expected_lse = attention(q, k, v, SCALE, None)
    assert_close(out.view(rows, 2, size), expected)
    assert out.dtype == dtype
    if kind:
        assert_close(lse.view(rows, 2), expected_lse)


def test_a_part_without_weight_changes_nothing() -> None:
    part, other = random(6, 16, dtype=torch.float32), random(6, 16, dtype=torch.float32, seed=1)
    lse = random(6, dtype=torch.float32, seed=2)
    nothing = torch.full((6,), -torch.inf)
    out, merged = torch.ops.npu.npu_attention_update([lse.npu(), nothing.npu()], [part.npu(), other.npu()], 1)
    assert_close(out, part.double())
    assert_close(merged, lse.double())
