"""Attention over keys and values given as they are: FIA without a block table, and packed flash attention."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from .formulas import FLOATS, assert_close, attention, random, triangle, visible

HALVES = (torch.float16, torch.bfloat16)
QUERIES, KEYS = [1, 7, 0, 130], [9, 7, 3, 150]


def packed(queries: list[int], keys: list[int], dtype: torch.dtype, size: int = 64) -> list[torch.Tensor]:
    return [
        random(sum(queries), 6, size, dtype=dtype),
        random(sum(keys), 2, size, dtype=dtype, seed=1),
        random(sum(keys), 2, size, dtype=dtype, seed=2),
    ]


def reference(
    tensors: list[torch.Tensor], queries: list[int], keys: list[int], mode: int, before: int = 0
) -> torch.Tensor:
    q, k, v = tensors
    parts, a, b = [], 0, 0
    for count, length in zip(queries, keys, strict=True):
        allowed = visible(count, length, mode, before, 0) if mode else None
        parts.append(attention(q[a : a + count], k[b : b + length], v[b : b + length], 0.125, allowed)[0])
        a, b = a + count, b + length
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("mode", "before"), [(0, 0), (3, 0), (4, 5)])
def test_fused_inference_on_packed_sequences(mode: int, before: int, dtype: torch.dtype) -> None:
    tensors = packed(QUERIES, KEYS, dtype)
    out = torch.ops.npu.npu_fused_infer_attention_score(
        *(t.npu() for t in tensors),
        atten_mask=triangle().npu() if mode else None,
        num_heads=6,
        num_key_value_heads=2,
        scale=0.125,
        pre_tokens=before,
        next_tokens=0 if mode == 4 else 2147483647,
        input_layout="TND",
        sparse_mode=mode,
        actual_seq_lengths=list(accumulate(QUERIES)),
        actual_seq_lengths_kv=list(accumulate(KEYS)),
    )[0]
    assert_close(out, reference(tensors, QUERIES, KEYS, mode, before))


@pytest.mark.parametrize("layout", ["BSH", "BSND", "BNSD", "BNSD_BSND"])
@pytest.mark.parametrize("mode", [0, 2, 3])
def test_fused_inference_on_batches(mode: int, layout: str) -> None:
    batch, rows, columns = 2, 5, 20
    q, k, v = (
        random(batch, rows, 6, 64, dtype=torch.float16),
        *(random(batch, columns, 2, 64, dtype=torch.float16, seed=s) for s in (1, 2)),
    )
    arrange = {"BSH": lambda t: t.flatten(2), "BSND": lambda t: t}.get(layout, lambda t: t.transpose(1, 2).contiguous())
    lengths = [13, 20]
    out, lse = torch.ops.npu.npu_fused_infer_attention_score(
        *(arrange(t).npu() for t in (q, k, v)),
        atten_mask=triangle().npu() if mode else None,
        num_heads=6,
        num_key_value_heads=2,
        scale=0.125,
        input_layout=layout,
        sparse_mode=mode,
        actual_seq_lengths_kv=lengths,
        softmax_lse_flag=True,
    )
    out = out.cpu().view(batch, rows, 6, 64) if layout != "BNSD" else out.cpu().transpose(1, 2)
    for i, length in enumerate(lengths):
        allowed = visible(rows, length, mode, 0, 0) if mode else None
        expected, expected_lse = attention(q[i], k[i, :length], v[i, :length], 0.125, allowed)
        assert_close(out[i], expected)
        assert_close(lse[i].squeeze(-1).T, expected_lse)


def test_fused_inference_with_a_mask_of_its_own() -> None:
    q, k, v = (
        random(2, 5, 6, 64, dtype=torch.float16),
        *(random(2, 20, 2, 64, dtype=torch.float16, seed=s) for s in (1, 2)),
    )
    mask = torch.rand(2, 1, 5, 20, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[1, 0, 2] = True  # a row that sees nothing
    out = torch.ops.npu.npu_fused_infer_attention_score(
        q.npu(),
        k.npu(),
        v.npu(),
        atten_mask=mask.npu(),
        num_heads=6,
        num_key_value_heads=2,
        scale=0.125,
        input_layout="BSND",
        sparse_mode=1,
    )[0]
    for i in range(2):
        assert_close(out[i], attention(q[i], k[i], v[i], 0.125, ~mask[i, 0])[0])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("mode", "before"), [(0, 0), (2, 0), (3, 0), (4, 5)])
def test_flash_attention(mode: int, before: int, dtype: torch.dtype) -> None:
    tensors = packed(QUERIES, KEYS, dtype)
    out, maximum, total, *_ = torch.ops.npu.npu_fusion_attention(
        *(t.npu() for t in tensors),
        6,
        "TND",
        atten_mask=triangle().npu() if mode else None,
        scale=0.125,
        pre_tockens=before if mode == 4 else 2147483647,
        next_tockens=0 if mode == 4 else 2147483647,
        sparse_mode=mode,
        actual_seq_qlen=list(accumulate(QUERIES)),
        actual_seq_kvlen=list(accumulate(KEYS)),
    )
    assert_close(out, reference(tensors, QUERIES, KEYS, mode, before))
    assert maximum.shape == total.shape == (138, 6, 8)
    expected = attention(
        tensors[0][:1], tensors[1][:9], tensors[2][:9], 0.125, visible(1, 9, mode, before, 0) if mode else None
    )[1]
    assert_close((torch.log(total) + maximum)[:1, :, 3], expected, torch.float32)


@pytest.mark.parametrize("size", [1, 20, 96, 256])
def test_flash_attention_takes_any_head_size_in_float32(size: int) -> None:
    tensors = packed([3, 2], [4, 5], torch.float32, size)
    out = torch.ops.npu.npu_fusion_attention(
        *(t.npu() for t in tensors),
        6,
        "TND",
        atten_mask=triangle().npu(),
        scale=0.125,
        sparse_mode=3,
        actual_seq_qlen=[3, 5],
        actual_seq_kvlen=[4, 9],
    )[0]
    assert_close(out, reference(tensors, [3, 2], [4, 5], 3))
