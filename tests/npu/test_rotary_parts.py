"""Rotary embedding with positions of several parts, and of whole rows in vision towers."""

from __future__ import annotations

import pytest
import torch

from ascend_patch import npu

pytestmark = pytest.mark.usefixtures("device")
TOKENS = 5
POSITIONS = torch.tensor([[0, 4, 4, 4, 19], [0, 4, 4, 5, 19], [0, 4, 5, 4, 19]])


def random(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def part_of(angle: int, sections: list[int], interleaved: bool) -> int:
    """Which part of a position an angle follows."""
    if interleaved:
        return next((part for part in (1, 2) if angle % 3 == part and angle < 3 * sections[part]), 0)
    return next(part for part in range(3) if angle < sum(sections[: part + 1]))


def turned(heads: torch.Tensor, angles: torch.Tensor, neox: bool) -> torch.Tensor:
    """``[tokens, heads, size]`` in float64, by ``[tokens, rotated / 2, 2]`` of cosines and sines."""
    result, half = heads.double().clone(), angles.shape[1]
    for i in range(half):
        a, b = (i, i + half) if neox else (2 * i, 2 * i + 1)
        cos, sin = (angles[:, i, k, None].double() for k in (0, 1))
        result[..., a] = heads[..., a].double() * cos - heads[..., b].double() * sin
        result[..., b] = heads[..., b].double() * cos + heads[..., a].double() * sin
    return result


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("neox", [True, False])
# The operator takes the first sections and no others.
@pytest.mark.parametrize("sections", [[11, 11, 10], [16, 10, 6]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_angle_follows_its_part(dtype: torch.dtype, sections: list[int], neox: bool, interleaved: bool) -> None:
    from ascend_patch.hostcann import trace

    cache = random(20, 64, dtype=dtype, seed=0)
    query, key = random(TOKENS, 4 * 96, dtype=dtype, seed=1), random(TOKENS, 96, dtype=dtype, seed=2)
    on_device = [tensor.npu() for tensor in (POSITIONS, query, key, cache)]
    with trace.recording() as counts:
        results = npu.multimodal_rotary_embedding(*on_device, 96, neox, sections, interleaved)
        seen = counts()["aclnn"]
    assert ("aclnnRopeWithSinCosCacheV2" in seen) == (sections == [11, 11, 10])
    rows = [POSITIONS[part_of(angle, sections, interleaved)] for angle in range(32)]
    angles = torch.stack([cache[row][:, [angle, angle + 32]] for angle, row in enumerate(rows)], dim=1)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for result, source in zip(results, (query, key), strict=True):
        expected = turned(source.view(TOKENS, -1, 96), angles, neox).view(source.shape)
        torch.testing.assert_close(result.cpu().double(), expected, rtol=tolerance, atol=tolerance)
        assert result.dtype == dtype


@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize(("size", "dtype"), [(72, torch.bfloat16), (80, torch.float32)])
def test_rows_of_a_vision_tower(size: int, dtype: torch.dtype, neox: bool) -> None:
    x = random(2, TOKENS, 3, size, dtype=dtype, seed=0)
    cos, sin = (random(TOKENS, size // 2, dtype=dtype, seed=seed) for seed in (1, 2))
    wide = [npu.widen_rotary_table(table.npu(), neox) for table in (cos, sin)]
    found = npu.rotate_rows(x.npu(), *wide, neox)
    angles = torch.stack((cos, sin), dim=-1)
    expected = torch.stack([turned(row, angles, neox) for row in x])
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(found.cpu().double(), expected, rtol=tolerance, atol=tolerance)


def test_which_rows_the_operator_takes() -> None:
    assert npu.rotate_rows_supports((2, 5000, 16, 80), True)
    assert not npu.rotate_rows_supports((2, 5000, 16, 896), True)
    assert npu.rotate_rows_supports((999, 10, 16, 80), True)
    assert not npu.rotate_rows_supports((1000, 10, 16, 80), True)
    assert not npu.rotate_rows_supports((100, 10, 16, 80), False)
