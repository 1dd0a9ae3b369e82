"""Attention of vision towers: shapes and lengths that the models of the end-to-end tests do not have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ascend_patch import npu
from ascend_patch.patches.attention import vision

pytestmark = pytest.mark.usefixtures("device")
SIZE = 72


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(heads: int, kv_heads: int) -> SimpleNamespace:
    return SimpleNamespace(num_heads=heads, num_kv_heads=kv_heads, head_size=SIZE, scale=SIZE**-0.5)


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``[tokens, heads, size]`` of one sequence."""
    sides = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    options = {"scale": SIZE**-0.5, "enable_gqa": query.shape[1] > key.shape[1]}
    return torch.nn.functional.scaled_dot_product_attention(*sides, **options)[0].transpose(0, 1)


@pytest.mark.parametrize("flat", [True, False])
def test_rows_are_sequences_where_no_lengths_are_given(flat: bool) -> None:
    """Also with fewer heads for keys and values, and more of their tokens than of the query's."""
    query, key, value = (random(3, length, heads, SIZE, seed=length) for length, heads in ((4, 4), (6, 2), (6, 2)))
    given = [(tensor.flatten(2) if flat else tensor).npu() for tensor in (query, key, value)]
    found = vision.attention(layer(4, 2), *given)
    expected = torch.stack([reference(*row) for row in zip(query, key, value, strict=True)])
    torch.testing.assert_close(found.cpu(), expected.flatten(2) if flat else expected, rtol=1e-4, atol=1e-4)


def test_lengths_apply_to_each_row() -> None:
    query, key, value = (random(2, 7, 2, SIZE, seed=seed) for seed in range(3))
    bounds = torch.tensor([0, 3, 3, 7], dtype=torch.int32).npu()  # one sequence is empty
    found = vision.attention(layer(2, 2), query.npu(), key.npu(), value.npu(), bounds)
    rows = zip(query, key, value, strict=True)
    expected = [
        torch.cat([reference(*(tensor[start:end] for tensor in row)) for start, end in ((0, 3), (3, 7))])
        for row in rows
    ]
    torch.testing.assert_close(found.cpu(), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_the_lengths_come_to_the_host_once_for_all_layers() -> None:
    from ascend_patch.hostcann import trace

    x, bounds = random(1, 7, 2, SIZE, seed=0).npu(), torch.tensor([0, 3, 7], dtype=torch.int32).npu()
    with trace.recording() as counts:
        for _ in range(3):
            vision.attention(layer(2, 2), x, x, x, bounds)
        seen = counts()
    assert seen["copy"]["device_to_host"]["calls"] == 1
    assert seen["aclnn"]["aclnnFlashAttentionVarLenScore"]["calls"] == 3


def test_more_sequences_than_the_operator_takes() -> None:
    """A very large image has more windows than that; CANN's limit is 2048 at once."""
    from ascend_patch.hostcann import trace

    count, length = 2050, 2
    query, key, value = (random(1, count * length, 1, SIZE, seed=seed) for seed in range(3))
    bounds = torch.arange(0, count * length + 1, length, dtype=torch.int32).npu()
    with trace.recording() as counts:
        found = vision.attention(layer(1, 1), query.npu(), key.npu(), value.npu(), bounds).cpu()
        assert counts()["aclnn"]["aclnnFlashAttentionVarLenScore"]["calls"] == 2
    sides = (tensor.view(count, length, SIZE) for tensor in (query, key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(*sides, scale=SIZE**-0.5)
    torch.testing.assert_close(found.view(expected.shape), expected, rtol=1e-4, atol=1e-4)


def test_where_there_is_no_operator_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "varlen_attention_supports", lambda dtype, head_size: False)
    x = random(1, 4, 2, SIZE, seed=0).npu()
    with pytest.raises(NotImplementedError, match=r"run 'ascend-patch disable attention\.vision'"):
        vision.attention(layer(2, 2), x, x, x)
