"""aclnnFusedInferAttentionScore with int8 keys and values, and writing such a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .formulas import assert_close, attention, random

HALVES = (torch.float16, torch.bfloat16)
HEADS, KV_HEADS, SIZE, BLOCK, SCALE = 6, 2, 64, 32, 0.1


class Requests:
    """One new token each, over a shuffled int8 cache; `shape` of the steps: [1], or one of those per channel."""

    def __init__(
        self,
        lengths: list[int],
        dtype: torch.dtype,
        shape: tuple[int, ...] = (1, KV_HEADS * SIZE),
        shifted: bool = False,
    ) -> None:
        self.lengths = lengths
        columns = max(1, *(-(-length // BLOCK) for length in lengths))
        blocks = columns * len(lengths) + 2
        generator = torch.Generator().manual_seed(3)
        order = torch.randperm(blocks, generator=generator)
        self.table = order[: columns * len(lengths)].view(len(lengths), columns).int()
        self.query = random(len(lengths), HEADS, SIZE, dtype=dtype)
        self.caches = [
            torch.randint(-128, 128, (blocks, BLOCK, KV_HEADS, SIZE), generator=generator).to(torch.int8) for _ in "kv"
        ]
        self.scales = [(torch.rand(shape, generator=generator) * 0.02 + 0.005).to(dtype) for _ in "kv"]
        self.offsets = [torch.randint(-60, 61, shape, generator=generator).to(dtype) if shifted else None for _ in "kv"]

    def run(self, layout: str = "BSND", heads_first: bool = False, **more: Any) -> Any:
        def arrange(tensor: torch.Tensor) -> torch.Tensor:
            shapes = {"BSND": tensor.unsqueeze(1), "BSH": tensor.flatten(1).unsqueeze(1), "BNSD": tensor.unsqueeze(2)}
            return shapes[layout].contiguous().npu()

        caches = [cache.transpose(1, 2).contiguous() if heads_first else cache.flatten(2) for cache in self.caches]
        offsets = [None if offset is None else offset.npu() for offset in self.offsets]
        out, lse = torch.ops.npu.npu_fused_infer_attention_score(
            arrange(self.query),
            *(cache.npu() for cache in caches),
            key_antiquant_scale=self.scales[0].npu(),
            key_antiquant_offset=offsets[0],
            value_antiquant_scale=self.scales[1].npu(),
            value_antiquant_offset=offsets[1],
            actual_seq_lengths_kv=self.lengths,
            block_table=self.table.npu(),
            num_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            scale=SCALE,
            input_layout=layout,
            block_size=BLOCK,
            **more,
        )
        return out.cpu().reshape(self.query.shape), lse.cpu()

    def expected(self, hidden: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention in float64 over (integer + offset) * scale."""
        parts = []
        for row, length in enumerate(self.lengths):
            wide = []
            for cache, scale, offset in zip(self.caches, self.scales, self.offsets, strict=True):
                integers = cache[self.table[row].long()].reshape(-1, KV_HEADS * SIZE)[:length].double()
                shift = 0 if offset is None else offset.double().flatten()
                wide.append(((integers + shift) * scale.double().flatten()).view(length, KV_HEADS, SIZE))
            allowed = None if hidden is None else ~hidden[row, 0, :, :length]
            parts.append(attention(self.query[row : row + 1], *wide, SCALE, allowed))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    "shape", [(1,), (1, KV_HEADS * SIZE), (1, KV_HEADS, SIZE), (1, KV_HEADS, 1, SIZE)], ids=["tensor", "H", "ND", "N1D"]
)
def test_steps(shape: tuple[int, ...], shifted: bool, dtype: torch.dtype) -> None:
    requests = Requests([70, 1, 32, 33], dtype, shape, shifted)
    out, lse = requests.run(softmax_lse_flag=True)
    expected, expected_lse = requests.expected()
    assert_close(out, expected)
    assert_close(lse.flatten(1), expected_lse)


@pytest.mark.parametrize(("layout", "heads_first"), [("BSND", False), ("BSH", False), ("BNSD", False), ("BNSD", True)])
def test_layouts(layout: str, heads_first: bool) -> None:
    requests = Requests([70, 5], torch.bfloat16, shifted=True)
    assert_close(requests.run(layout, heads_first)[0], requests.expected()[0])


def test_a_mask_hides_positions() -> None:
    requests = Requests([70, 5, 40], torch.bfloat16)
    hidden = torch.rand(3, 1, 1, requests.table.shape[1] * BLOCK, generator=torch.Generator().manual_seed(5)) < 0.5
    hidden[..., 0] = False
    assert_close(requests.run(atten_mask=hidden.npu())[0], requests.expected(hidden)[0])


def test_a_request_without_keys() -> None:
    out, lse = Requests([0, 3], torch.bfloat16, shifted=True).run(softmax_lse_flag=True)
    assert not out[0].any() and torch.isinf(lse[0]).all() and out[1].any()


def test_keys_and_values_that_were_quantized_and_written() -> None:
    """Through the operators that write such a cache: what comes out is near attention over what went in."""
    dtype, length = torch.bfloat16, 50
    keys, values = (random(length, KV_HEADS, SIZE, dtype=dtype, seed=seed) for seed in (1, 2))
    requests = Requests([length], dtype)
    slots = torch.tensor([int(requests.table[0, i // BLOCK]) * BLOCK + i % BLOCK for i in range(length)])
    caches = [torch.zeros_like(cache).npu() for cache in requests.caches]
    integers = []
    for rows, scale in zip((keys, values), requests.scales, strict=True):
        scale.copy_(rows.flatten(1).abs().amax(0) / 127)
        reciprocal = (1 / scale.float()).to(dtype).flatten().npu()
        integers.append(torch.ops.npu.npu_quantize(rows.flatten(1).npu(), reciprocal, None, torch.qint8, -1, False))
    torch.ops.npu.npu_scatter_pa_kv_cache(
        *(part.view(length, KV_HEADS, SIZE) for part in integers), *caches, slots.npu(), cache_mode="Norm"
    )
    requests.caches = [cache.cpu() for cache in caches]
    out = requests.run()[0]
    assert_close(out, requests.expected()[0])
    whole = attention(requests.query, keys, values, SCALE, None)[0]
    error = (out.double() - whole).abs().max()
    # Half a step of each value moves the result by at most that; the keys' steps move the weights of 50 of them.
    assert 0 < error < 0.05, error


def test_more_than_one_query_row_is_refused() -> None:
    requests = Requests([70, 5], torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"query is .*; allowed: one row with int8 keys"):
        torch.ops.npu.npu_fused_infer_attention_score(
            requests.query.unsqueeze(1).expand(-1, 2, -1, -1).contiguous().npu(),
            *(cache.flatten(2).npu() for cache in requests.caches),
            key_antiquant_scale=requests.scales[0].npu(),
            value_antiquant_scale=requests.scales[1].npu(),
            actual_seq_lengths_kv=requests.lengths,
            block_table=requests.table.npu(),
            num_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            input_layout="BSND",
            block_size=BLOCK,
        )
