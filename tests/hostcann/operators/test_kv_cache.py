from __future__ import annotations

import pytest
import torch

from .formulas import random

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)


def values(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    if dtype == torch.int8:
        return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return random(*shape, dtype=dtype, seed=seed)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("slots", [torch.int32, torch.int64])
def test_rows_land_in_their_slots_and_nowhere_else(dtype: torch.dtype, slots: torch.dtype) -> None:
    key, value = values(3, 2, 32, dtype=dtype), values(3, 2, 32, dtype=dtype, seed=1)
    before_k, before_v = values(4, 16, 2, 32, dtype=dtype, seed=2), values(4, 16, 2, 32, dtype=dtype, seed=3)
    key_cache, value_cache = before_k.npu(), before_v.npu()
    mapping = torch.tensor([0, 63, 17], dtype=slots)
    torch.ops.npu.npu_scatter_pa_kv_cache(
        key.npu(), value.npu(), key_cache, value_cache, mapping.npu(), cache_mode="Norm"
    )
    for before, new, cache in ((before_k, key, key_cache), (before_v, value, value_cache)):
        expected = before.clone().view(64, 2, 32)
        for token, slot in enumerate(mapping.tolist()):
            expected[slot] = new[token]
        assert torch.equal(cache.cpu().view(64, 2, 32), expected)


def test_strided_sources_and_no_tokens() -> None:
    fused = random(5, 3 * 64, dtype=torch.bfloat16)
    key, value = (t.view(5, 2, 32) for t in fused.npu()[:, 64:].split(64, dim=-1))
    cache, other = (torch.zeros(2, 16, 2, 32, dtype=torch.bfloat16).npu() for _ in range(2))
    mapping = torch.tensor([4, 3, 2, 1, 31])
    torch.ops.npu.npu_scatter_pa_kv_cache(key, value, cache, other, mapping.npu(), cache_mode="Norm")
    assert torch.equal(cache.cpu().view(32, 64)[mapping], fused[:, 64:128])
    assert torch.equal(other.cpu().view(32, 64)[mapping], fused[:, 128:])
    torch.ops.npu.npu_scatter_pa_kv_cache(key[:0], value[:0], cache, other, mapping[:0].npu(), cache_mode="Norm")


def test_the_nz_cache_holds_tiles_of_32_bytes() -> None:
    key = random(2, 2, 32, dtype=torch.float16)
    cache, other = (torch.zeros(3, 4, 16, 16, dtype=torch.float16).npu() for _ in range(2))
    torch.ops.npu.npu_scatter_pa_kv_cache(
        key.npu(), key.npu(), cache, other, torch.tensor([17, 5]).npu(), cache_mode="PA_NZ"
    )
    expected = torch.zeros(3, 4, 16, 16, dtype=torch.float16)
    for token, (block, row) in enumerate(((1, 1), (0, 5))):
        for column in range(64):
            expected[block, column // 16, row, column % 16] = key[token].flatten()[column]
    assert torch.equal(cache.cpu(), expected)
    assert torch.equal(other.cpu(), expected)


@pytest.mark.parametrize("slot", [-1, 32])
def test_slots_outside_the_cache_are_refused(slot: int) -> None:
    key = random(1, 2, 32, dtype=torch.float16).npu()
    cache = torch.zeros(2, 16, 2, 32, dtype=torch.float16).npu()
    with pytest.raises(RuntimeError, match=rf"slotMapping\[0\] is {slot}; allowed: 0 to .* = 31"):
        torch.ops.npu.npu_scatter_pa_kv_cache(
            key, key, cache, cache.clone(), torch.tensor([slot]).npu(), cache_mode="Norm"
        )
    assert not cache.any()
