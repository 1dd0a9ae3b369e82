from __future__ import annotations

import pytest
import torch

from .formulas import FLOATS, assert_close, random, rotate


def table(rows: int, rotary: int, dtype: torch.dtype) -> torch.Tensor:
    angles = torch.arange(rows).unsqueeze(1) * 10000.0 ** (-torch.arange(rotary // 2) / (rotary // 2))
    return torch.cat((angles.cos(), angles.sin()), -1).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize(("head_size", "rotary"), [(64, 64), (128, 64), (96, 32)])
def test_by_position(head_size: int, rotary: int, neox: bool, dtype: torch.dtype) -> None:
    positions = torch.tensor([0, 3, 99, 3, 50])
    cache = table(100, rotary, dtype)
    q, k = random(5, 4 * head_size, dtype=dtype), random(5, 2 * head_size, dtype=dtype, seed=1)
    mode = "half" if neox else "interleave"
    args = {"mrope_section": [0, 0, 0], "rotary_mode": mode}
    q_out, k_out = torch.ops.npu.npu_mrope(positions.npu(), q.npu(), k.npu(), cache.npu(), head_size, **args)
    cos, sin = cache[positions].chunk(2, -1)
    assert_close(q_out, rotate(q, cos, sin, head_size, neox))
    assert_close(k_out, rotate(k, cos, sin, head_size, neox))
    meta = torch.ops.npu.npu_mrope(*(t.to("meta") for t in (positions, q, k, cache)), head_size, **args)
    assert [(t.shape, t.dtype) for t in (q_out, k_out)] == [(t.shape, t.dtype) for t in meta]


def test_rows_may_be_strided() -> None:
    fused = random(4, 3 * 64, dtype=torch.bfloat16)
    cache, positions = table(8, 64, torch.bfloat16), torch.arange(4)
    q, k, _ = fused.npu().split(64, dim=-1)
    out = torch.ops.npu.npu_mrope(positions.npu(), q, k, cache.npu(), 64, mrope_section=[0, 0, 0])[1]
    cos, sin = cache[positions].chunk(2, -1)
    assert_close(out, rotate(fused[:, 64:128], cos, sin, 64, True))


@pytest.mark.parametrize("cache_mode", ["default", "interleave"])
def test_multimodal_sections(cache_mode: str) -> None:
    sections = [16, 24, 24]
    positions = torch.tensor([[1, 2], [5, 6], [30, 40]])
    cache = table(64, 128, torch.float32)
    q = random(2, 128, dtype=torch.float32)
    out = torch.ops.npu.npu_mrope(
        positions.npu(),
        q.npu(),
        q.npu(),
        cache.npu(),
        128,
        mrope_section=sections,
        rotary_mode="half",
        cache_mode=cache_mode,
    )[0]
    source = torch.zeros(64, dtype=torch.int64)
    if cache_mode == "default":
        source = torch.repeat_interleave(torch.arange(3), torch.tensor(sections))
    else:
        source[1:64:3], source[2:64:3] = 1, 2
    rows = cache[positions[source].T]  # [tokens, 64, 128]
    index = torch.arange(64)
    assert_close(out, rotate(q, rows[:, index, index], rows[:, index, index + 64], 128, True))


def test_a_position_outside_the_table_is_refused() -> None:
    cache, q = table(8, 64, torch.float32), random(1, 64, dtype=torch.float32)
    with pytest.raises(RuntimeError, match=r"positions\[0\] is 8; allowed: 0 to 7"):
        torch.ops.npu.npu_mrope(torch.tensor([8]).npu(), q.npu(), q.npu(), cache.npu(), 64, mrope_section=[0, 0, 0])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mode", ["half", "interleave"])
def test_rotary_mul(mode: str, dtype: torch.dtype) -> None:
    x = random(2, 5, 3, 64, dtype=dtype)  # BSND
    cos, sin = table(5, 64, dtype).chunk(2, -1)
    # Half mode repeats the angles, interleaved pairs repeat each one.
    spread = (lambda t: torch.cat((t, t), -1)) if mode == "half" else (lambda t: t.repeat_interleave(2, -1))
    args = [spread(t).view(1, 5, 1, 64).npu() for t in (cos, sin)]
    out = torch.ops.npu.npu_rotary_mul(x.npu(), *args, mode)
    flat = x.reshape(10, 3 * 64)
    expected = rotate(flat, cos.repeat(2, 1), sin.repeat(2, 1), 64, mode == "half")
    assert_close(out, expected.view(2, 5, 3, 64))


@pytest.mark.parametrize("dtype", FLOATS)
def test_apply_rotary_pos_emb_works_in_place(dtype: torch.dtype) -> None:
    q, k = random(1, 4, 3, 128, dtype=dtype), random(1, 4, 1, 128, dtype=dtype, seed=1)
    cos, sin = table(4, 128, dtype).chunk(2, -1)
    both = [torch.cat((t, t), -1).view(1, 4, 1, 128).npu() for t in (cos, sin)]
    q_npu, k_npu = q.npu(), k.npu()
    torch.ops.npu.npu_apply_rotary_pos_emb(q_npu, k_npu, *both, "BSND")
    assert_close(q_npu, rotate(q.view(4, -1), cos, sin, 128, True).view(q.shape))
    assert_close(k_npu, rotate(k.view(4, -1), cos, sin, 128, True).view(k.shape))
