"""Gating, routing, grouped products and their activation against formulas token by token."""

from __future__ import annotations

import pytest
import torch

from .formulas import FLOATS, RELATIVE, assert_close, random

npu = torch.ops.npu


def probabilities(logits: torch.Tensor, sigmoid: bool) -> torch.Tensor:
    wide = logits.double()
    return 1 / (1 + torch.exp(-wide)) if sigmoid else torch.exp(wide) / torch.exp(wide).sum(-1, keepdim=True)


def separated(rows: int, experts: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Logits that no type rounds to ties: a permutation of distinct steps in every row."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(experts, generator=generator) / 16 - 1 for _ in range(rows)]).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("renorm", [0, 1])
@pytest.mark.parametrize(("rows", "experts", "k"), [(1, 8, 2), (5, 60, 4), (3, 7, 7), (2, 3, 0), (0, 8, 2)])
def test_softmax_gating(rows: int, experts: int, k: int, renorm: int, dtype: torch.dtype) -> None:
    logits = separated(rows, experts, dtype) if rows else torch.empty(0, experts, dtype=dtype)
    weights, index, _ = npu.npu_moe_gating_top_k_softmax_v2(logits.npu(), k=k, renorm=renorm)
    meta = npu.npu_moe_gating_top_k_softmax_v2(logits.to("meta"), k=k, renorm=renorm)
    for got, shape in zip((weights, index), meta, strict=False):
        assert (got.shape, got.dtype) == (shape.shape, shape.dtype)
    chosen = probabilities(logits, False)
    for row in range(rows):
        best = sorted(range(experts), key=lambda e, row=row: -float(logits[row, e]))[:k]  # type: ignore[misc]
        assert index[row].tolist() == best
        expected = chosen[row, best]
        assert_close(weights[row], expected / expected.sum() if renorm else expected)


def test_softmax_gating_over_two_dimensions_of_tokens_and_its_whole_softmax() -> None:
    logits = separated(6, 10, torch.float32).view(2, 3, 10)
    weights, index, whole = npu.npu_moe_gating_top_k_softmax_v2(logits.npu(), k=3, output_softmax=True)
    assert_close(whole, probabilities(logits, False))
    assert_close(weights, probabilities(logits, False).topk(3)[0])
    assert index.tolist() == logits.topk(3)[1].tolist()


def test_finished_rows_go_to_no_expert() -> None:
    logits = separated(3, 5, torch.float32)
    finished = torch.tensor([False, True, False])
    _, index, _ = npu.npu_moe_gating_top_k_softmax_v2(logits.npu(), k=2, finished=finished.npu())
    assert index[1].tolist() == [5, 5] and index[0].tolist() == logits[0].topk(2)[1].tolist()


def gated(
    logits: torch.Tensor, bias: torch.Tensor | None, k: int, groups: int, kept: int, best_two: bool, sigmoid: bool
) -> tuple[list[list[int]], torch.Tensor]:
    """DeepSeek's rule in words, one token at a time: experts and weights before the factor."""
    norm = probabilities(logits, sigmoid)
    choice = norm if bias is None else norm + bias.double()
    experts, weights = [], []
    for row in range(logits.shape[0]):
        size = logits.shape[1] // groups
        values = choice[row].tolist()
        blocks = [sorted(values[g * size : (g + 1) * size], reverse=True) for g in range(groups)]
        order = sorted(range(groups), key=lambda g: -sum(blocks[g][: 2 if best_two else 1]))[:kept]
        candidates = [e for e in range(logits.shape[1]) if e // size in order]
        best = sorted(candidates, key=lambda e: -values[e])[:k]
        experts.append(best)
        own = norm[row, best]
        weights.append(own / own.sum() if sigmoid else own)
    return experts, torch.stack(weights)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("best_two", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("experts", "groups", "kept", "k"), [(16, 4, 2, 4), (64, 8, 3, 6), (12, 1, 1, 5), (6, 2, 2, 6)]
)
def test_gating_by_groups(
    experts: int, groups: int, kept: int, k: int, biased: bool, best_two: bool, sigmoid: bool, dtype: torch.dtype
) -> None:
    logits = separated(9, experts, dtype, seed=experts)
    bias = (torch.arange(experts).flip(0) / 128).to(dtype) if biased else None
    weights, index, _ = npu.npu_moe_gating_top_k(
        logits.npu(),
        k,
        bias=None if bias is None else bias.npu(),
        k_group=kept,
        group_count=groups,
        group_select_mode=int(best_two),
        norm_type=int(sigmoid),
        routed_scaling_factor=2.5,
    )
    chosen, expected = gated(logits, bias, k, groups, kept, best_two, sigmoid)
    assert index.tolist() == chosen
    assert_close(weights, expected * 2.5)
    meta = npu.npu_moe_gating_top_k(logits.to("meta"), k)
    assert [(t.shape, t.dtype) for t in (weights, index)] == [(t.shape, t.dtype) for t in meta[:2]]


def test_a_bias_chooses_and_does_not_weigh() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    bias = torch.tensor([0.0, 0.0, 0.0, 9.0])
    weights, index, _ = npu.npu_moe_gating_top_k(logits.npu(), 2, bias=bias.npu(), norm_type=1)
    scores = torch.sigmoid(torch.tensor([0.0, 3.0]))
    assert index.tolist() == [[3, 0]]
    torch.testing.assert_close(weights.cpu()[0], scores / scores.sum())


def test_the_whole_norm_on_request() -> None:
    logits = separated(4, 8, torch.float32)
    norm = npu.npu_moe_gating_top_k(logits.npu(), 2, norm_type=1, out_flag=True)[2]
    assert_close(norm, probabilities(logits, True))


def routed(x: torch.Tensor, experts: torch.Tensor, count: int, **options: object) -> tuple[torch.Tensor, ...]:
    arguments = {
        "active_num": experts.numel(),
        "expert_num": count,
        "expert_tokens_num_type": 1,
        "expert_tokens_num_flag": True,
        "active_expert_range": [0, count],
        **options,
    }
    results: tuple[torch.Tensor, ...] = npu.npu_moe_init_routing_v2(x.npu(), experts.npu(), **arguments)
    return results


# All tokens to one expert; experts without a token at both ends; one token; the same expert twice.
CHOICES = [
    [[2, 2], [2, 2], [2, 2]],
    [[3, 1], [1, 4], [4, 3]],
    [[5, 0]],
    [[0], [1], [0], [5], [1]],
]


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8])
@pytest.mark.parametrize("choices", CHOICES)
def test_routing(choices: list[list[int]], dtype: torch.dtype) -> None:
    experts = torch.tensor(choices, dtype=torch.int32)
    tokens, k = experts.shape
    x = (random(tokens, 33, dtype=torch.float32) * 10).to(dtype)
    rows, places, counts, _ = routed(x, experts, 6)
    slots = sorted(range(tokens * k), key=lambda slot: choices[slot // k][slot % k])  # sorted() is stable
    assert torch.equal(rows.cpu(), x[[slot // k for slot in slots]])
    assert places.tolist() == [slots.index(slot) for slot in range(tokens * k)]
    assert counts.tolist() == [sum(row.count(e) for row in choices) for e in range(6)]
    scattered = routed(x, experts, 6, row_idx_type=1)[1]
    assert scattered.tolist() == slots
    meta = npu.npu_moe_init_routing_v2(
        x.to("meta"), experts.to("meta"), expert_num=6, expert_tokens_num_type=1, expert_tokens_num_flag=True,
        active_num=tokens * k, active_expert_range=[0, 6],
    )  # fmt: skip
    for got, shape in zip((rows, places, counts), meta, strict=False):
        assert (got.shape, got.dtype) == (shape.shape, shape.dtype)


def test_routing_to_some_of_the_experts() -> None:
    experts = torch.tensor([[0, 3], [2, 1], [3, 2]], dtype=torch.int32)
    x = random(3, 32, dtype=torch.float16)
    rows, places, counts, _ = routed(x, experts, 4, active_expert_range=[2, 4])
    assert counts.tolist() == [2, 2]
    assert places.tolist() == [-1, 2, 0, -1, 3, 1]
    assert torch.equal(rows.cpu()[:4], x[[1, 2, 0, 2]])


def test_a_token_for_an_expert_that_does_not_exist() -> None:
    experts = torch.tensor([[0, 4]], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"expertIdx\[0, 1\] is 4; allowed: 0 to expertNum - 1 = 3"):
        routed(random(1, 32, dtype=torch.float32), experts, 4)
        torch.npu.synchronize()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("counts", [[2, 0, 3, 1], [6, 0, 0, 0], [0, 0, 0, 6], [1, 1, 1, 1], [0, 0, 0, 0]])
@pytest.mark.parametrize("biased", [True, False])
def test_grouped_matmul(counts: list[int], biased: bool, transposed: bool, dtype: torch.dtype) -> None:
    x = random(6, 40, dtype=dtype)
    stored = random(4, 24, 40, dtype=dtype, seed=1) if transposed else random(4, 40, 24, dtype=dtype, seed=1)
    weight = stored.npu().transpose(1, 2) if transposed else stored.npu()
    bias = random(4, 24, dtype=torch.float16 if dtype == torch.float16 else torch.float32, seed=2) if biased else None
    expected = torch.zeros(sum(counts), 24, dtype=torch.float64)
    begin = 0
    for group, count in enumerate(counts):
        matrix = weight[group].cpu().double()
        for row in range(begin, begin + count):
            expected[row] = (x[row].double().unsqueeze(1) * matrix).sum(0)
            if bias is not None:
                expected[row] += bias[group].double()
        begin += count
    for kind, values in ((1, counts), (0, torch.tensor(counts).cumsum(0).tolist())):
        (out,) = npu.npu_grouped_matmul(
            [x.npu()],
            [weight],
            bias=None if bias is None else [bias.npu()],
            group_list=torch.tensor(values).npu(),
            split_item=2,
            group_type=0,
            group_list_type=kind,
        )
        assert (out.shape, out.dtype) == ((6, 24), dtype)
        torch.testing.assert_close(
            out.cpu()[: sum(counts)].double(), expected, rtol=RELATIVE[dtype], atol=20 * RELATIVE[torch.float32]
        )


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("depth", [40, 1500])
@pytest.mark.parametrize(
    ("dtype", "scale_dtype"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_grouped_matmul_of_int8(
    dtype: torch.dtype, scale_dtype: torch.dtype, depth: int, transposed: bool, per_row: bool
) -> None:
    """Against exact integers; the result is rounded once."""
    generator = torch.Generator().manual_seed(5)
    counts = [2, 0, 3, 1]
    x = torch.randint(-128, 128, (7, depth), generator=generator, dtype=torch.int8)
    shape = (4, 24, depth) if transposed else (4, depth, 24)
    stored = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    weight = stored.npu().transpose(1, 2) if transposed else stored.npu()
    scale = (torch.rand(4, 24, generator=generator) * 1e-4).to(scale_dtype)
    steps = torch.rand(7, generator=generator) if per_row else None
    (out,) = npu.npu_grouped_matmul(
        [x.npu()],
        [weight],
        scale=[scale.npu()],
        per_token_scale=None if steps is None else [steps.npu()],
        group_list=torch.tensor(counts).npu(),
        split_item=2,
        group_type=0,
        group_list_type=1,
        output_dtype=dtype,
    )
    assert (out.shape, out.dtype) == ((7, 24), dtype)
    group = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    matrices = weight.cpu().long()[group]
    exact = (x[:6].long().unsqueeze(1) @ matrices).squeeze(1).double() * scale[group].double()
    if steps is not None:
        exact *= steps[:6].double().unsqueeze(1)
    torch.testing.assert_close(out.cpu()[:6].double(), exact, rtol=RELATIVE[dtype], atol=1e-6)


@pytest.mark.parametrize(("values", "kind"), [([2, 5], 1), ([3, 2], 0), ([-1, 2], 1)])
def test_groups_that_do_not_fit(values: list[int], kind: int) -> None:
    with pytest.raises(RuntimeError, match=r"aclnnGroupedMatmul: groupList\[\d\] is"):
        npu.npu_grouped_matmul(
            [random(6, 32, dtype=torch.float32).npu()],
            [random(2, 32, 16, dtype=torch.float32).npu()],
            group_list=torch.tensor(values).npu(),
            split_item=2,
            group_type=0,
            group_list_type=kind,
        )
        torch.npu.synchronize()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mode", [0, 2])
@pytest.mark.parametrize("extra", [True, False])
def test_finalize(extra: bool, mode: int, dtype: torch.dtype) -> None:
    tokens, k = 5, 3
    rows = random(tokens * k, 32, dtype=dtype)
    places = torch.randperm(tokens * k, generator=torch.Generator().manual_seed(1)).int()
    scales = random(tokens, k, dtype=dtype, seed=2)
    first, second = (random(tokens, 32, dtype=dtype, seed=seed) if extra else None for seed in (3, 4))
    bias = random(7, 32, dtype=dtype, seed=5) if extra else None
    experts = (torch.arange(tokens * k) % 7).view(tokens, k).int() if extra else None
    device = [None if t is None else t.npu() for t in (first, second, bias, scales, places, experts)]
    out = npu.npu_moe_finalize_routing(rows.npu(), *device, drop_pad_mode=mode)
    for token in range(tokens):
        total = torch.zeros(32, dtype=torch.float64)
        for choice in range(k):
            entry = token * k + choice if mode == 2 else choice * tokens + token
            value = rows[int(places[entry])].double()
            if bias is not None and experts is not None:
                value = value + bias[int(experts[token, choice])].double()
            total += float(scales[token, choice]) * value
        if first is not None and second is not None:
            total += first[token].double() + second[token].double()
        torch.testing.assert_close(out.cpu()[token].double(), total, rtol=RELATIVE[dtype], atol=1e-5)
    meta = npu.npu_moe_finalize_routing(
        *(None if t is None else t.to("meta") for t in (rows, first, second, bias, scales, places, experts))
    )
    assert (out.shape, out.dtype) == (meta.shape, meta.dtype)


@pytest.mark.parametrize("mode", [1, 3])
@pytest.mark.parametrize("biased", [True, False])
def test_finalize_drops_the_entries_of_minus_one(biased: bool, mode: int) -> None:
    """Three experts with a capacity of two; what nobody may read is not a number."""
    places = [[5, -1], [-1, -1], [0, 3], [-1, 2]]
    rows, scales = random(3, 2, 32, dtype=torch.float32), random(4, 2, dtype=torch.float32, seed=1)
    rows[0, 1], rows[2, 0] = torch.nan, torch.nan
    bias = random(3, 32, dtype=torch.float32, seed=2) if biased else None
    experts = torch.tensor([[2, 0], [0, 0], [0, 1], [1, 1]], dtype=torch.int32)
    entries = torch.tensor(places, dtype=torch.int32)
    out = npu.npu_moe_finalize_routing(
        rows.npu(),
        None,
        None,
        None if bias is None else bias.npu(),
        scales.npu(),
        (entries if mode == 3 else entries.t()).reshape(-1).npu(),
        experts.npu() if biased else None,
        drop_pad_mode=mode,
    )
    for token, chosen in enumerate(places):
        total = torch.zeros(32, dtype=torch.float64)
        for choice, place in enumerate(chosen):
            if place >= 0:
                value = rows.view(6, 32)[place].double()
                total += float(scales[token, choice]) * (value if bias is None else value + bias[place // 2].double())
        torch.testing.assert_close(out.cpu()[token].double(), total, rtol=1e-5, atol=1e-6)


def test_finalize_beside_bfloat16_takes_float32_weights() -> None:
    rows, places = random(4, 32, dtype=torch.bfloat16), torch.tensor([3, 0, 2, 1], dtype=torch.int32)
    scales = random(2, 2, dtype=torch.float32)
    out = npu.npu_moe_finalize_routing(rows.npu(), None, None, None, scales.npu(), places.npu(), None, drop_pad_mode=2)
    picked = rows[places.long()].double().view(2, 2, 32)
    assert_close(out, (picked * scales.double().unsqueeze(-1)).sum(1))


def test_finalize_without_weights_undoes_the_routing() -> None:
    experts = torch.tensor([[3], [0], [3], [1]], dtype=torch.int32)
    x = random(4, 32, dtype=torch.float32)
    rows, places, _, _ = routed(x, experts, 4)
    back = npu.npu_moe_finalize_routing(rows, None, None, None, None, places, None, drop_pad_mode=2)
    assert torch.equal(back.cpu(), x)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("shape", [(1, 32), (5, 66), (3, 2, 128), (0, 64)])
def test_clipped_swiglu(shape: tuple[int, ...], interleaved: bool, dtype: torch.dtype) -> None:
    x = random(*shape, dtype=dtype) * 6
    out = npu.npu_clipped_swiglu(x.npu(), alpha=1.5, limit=5.0, bias=0.5, interleaved=interleaved)
    wide = x.double()
    gate, up = (wide[..., ::2], wide[..., 1::2]) if interleaved else wide.chunk(2, -1)
    gate = torch.minimum(gate, torch.tensor(5.0))
    up = torch.minimum(torch.maximum(up, torch.tensor(-5.0)), torch.tensor(5.0))
    assert_close(out, gate / (1 + torch.exp(-1.5 * gate)) * (up + 0.5))
    meta = npu.npu_clipped_swiglu(x.to("meta"), interleaved=interleaved)
    assert (out.shape, out.dtype) == (meta.shape, meta.dtype)


def test_clipped_swiglu_of_the_rows_in_groups() -> None:
    x = random(6, 32, dtype=torch.float32)
    whole = npu.npu_clipped_swiglu(x.npu())
    some = npu.npu_clipped_swiglu(x.npu(), group_index=torch.tensor([1, 0, 3]).npu())
    assert torch.equal(some.cpu()[:4], whole.cpu()[:4])
    with pytest.raises(RuntimeError, match=r"groupIndex\[1\] is 4; .* together at most the 6 rows"):
        npu.npu_clipped_swiglu(x.npu(), group_index=torch.tensor([3, 4]).npu())
        torch.npu.synchronize()


def test_lists_of_several_matrices_are_refused() -> None:
    x, weight = random(4, 32, dtype=torch.float32).npu(), random(32, 16, dtype=torch.float32).npu()
    with pytest.raises(RuntimeError, match="weight must hold exactly one tensor"):
        npu.npu_grouped_matmul(
            [x], [weight, weight], group_list=torch.tensor([2, 2]).npu(), split_item=2, group_type=0, group_list_type=1
        )
