"""What the functions for mixtures of experts add to the operators under them, and that they fit together."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ascend_patch import npu

pytestmark = pytest.mark.usefixtures("device")
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_are_float32_and_sum_to_one_where_asked(dtype: torch.dtype) -> None:
    logits = random(4, 12, dtype=dtype)
    probabilities = logits.float().softmax(-1)
    for renormalize in (False, True):
        weights, experts = npu.gate_softmax(logits.npu(), 3, renormalize)
        best, order = probabilities.topk(3)
        assert weights.dtype == torch.float32 and experts.dtype == torch.int32
        assert experts.tolist() == order.tolist()
        torch.testing.assert_close(weights.cpu(), best / best.sum(-1, keepdim=True) if renormalize else best)


@pytest.mark.parametrize("dtype", FLOATS)
def test_groups_with_a_bias_of_another_type(dtype: torch.dtype) -> None:
    logits, bias = random(4, 8, dtype=dtype), torch.tensor([0.0, 0, 0, 0, 0, 0, 5.0, 4.0])
    weights, experts = npu.gate_groups(
        logits.npu(), 2, sigmoid=True, groups=4, chosen_groups=1, best_two=True, bias=bias.npu(), factor=3.0
    )
    scores = logits.float().sigmoid()[:, [6, 7]]
    assert experts.sort(-1)[0].tolist() == [[6, 7]] * 4
    order = (experts.cpu() - 6).long()
    torch.testing.assert_close(weights.cpu(), (3 * scores / scores.sum(-1, keepdim=True)).gather(1, order))


def test_which_groups_the_operator_takes() -> None:
    assert npu.gate_groups_supports(256, 8, True) and npu.gate_groups_supports(160, 8, False)
    assert npu.gate_groups_supports(16, 16, False) and not npu.gate_groups_supports(16, 16, True)
    assert not npu.gate_groups_supports(10, 4, False) and not npu.gate_groups_supports(10, 0, False)
    assert npu.gate_groups_supports(2048, 1, False) and not npu.gate_groups_supports(256, 128, False)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("choices", [[[0, 3], [3, 1], [2, 0]], [[1, 1], [1, 1], [1, 1]], [[4, 0]]])
def test_there_and_back(choices: list[list[int]], dtype: torch.dtype) -> None:
    """One layer of experts, token by token; the operators get the weights in vLLM's layout."""
    experts = torch.tensor(choices, dtype=torch.int32)
    tokens, k = experts.shape
    x, weights = random(tokens, 32, dtype=dtype), random(tokens, k, seed=1).softmax(-1)
    up, down = random(5, 48, 32, dtype=dtype, seed=2) / 6, random(5, 32, 24, dtype=dtype, seed=3) / 6
    rows, places, counts = npu.route_tokens(x.npu(), experts.npu(), 5)
    hidden = npu.swiglu(npu.grouped_matmul(rows, up.npu(), counts))
    out = npu.combine_tokens(npu.grouped_matmul(hidden, down.npu(), counts), places, weights.npu())
    assert (out.shape, out.dtype) == (x.shape, dtype)
    for token, row in enumerate(choices):
        expected = torch.zeros(32, dtype=torch.float64)
        for choice, expert in enumerate(row):
            gate, value = (up[expert].double() @ x[token].double()).chunk(2)
            expected += weights[token, choice].double() * (down[expert].double() @ (F.silu(gate) * value))
        tolerance = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
        torch.testing.assert_close(out[token].cpu().double(), expected, rtol=tolerance, atol=tolerance)


def test_one_expert_each_without_weights() -> None:
    experts, x = torch.tensor([[2], [0], [2]], dtype=torch.int32), random(3, 32)
    rows, places, counts = npu.route_tokens(x.npu(), experts.npu(), 3)
    assert counts.tolist() == [1, 0, 2]
    assert torch.equal(npu.combine_tokens(rows, places, None).cpu(), x)


def test_clipped_swiglu_clips() -> None:
    x = torch.tensor([[9.0, 9.0, -9.0, -9.0]])
    out = npu.clipped_swiglu(x.npu(), alpha=1.0, limit=2.0, shift=0.5, interleaved=True)
    expected = torch.stack([2 * torch.sigmoid(torch.tensor(2.0)) * 2.5, 9 * torch.sigmoid(torch.tensor(-9.0)) * 1.5])
    torch.testing.assert_close(out.cpu()[0], expected)


def test_which_tokens_the_operators_between_ranks_take() -> None:
    fits = {"ranks": 2, "experts": 8, "size": 64, "tokens": 256, "dtype": torch.float16, "buffer": 200 << 20}
    assert npu.send_tokens_supports(**fits) and npu.send_tokens_supports(**{**fits, "ranks": 16, "experts": 1024})
    for change in (
        {"ranks": 9, "experts": 9},
        {"experts": 9},
        {"experts": 1026},
        {"size": 48},
        {"size": 7200},
        {"tokens": 257},
        {"tokens": 0},
        {"dtype": torch.float32},
        {"buffer": 4 << 20},
    ):
        assert not npu.send_tokens_supports(**{**fits, **change}), change
