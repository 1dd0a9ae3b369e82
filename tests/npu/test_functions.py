"""What the functions add to the operators under them; the operators have tests of their own."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch

from ascend_patch import npu

pytestmark = pytest.mark.usefixtures("device")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_device() -> None:
    assert npu.is_available() and npu.device_count() >= 1
    assert npu.device_name().startswith("Ascend") and npu.soc_family() == "910B"
    assert npu.total_memory() == torch.npu.mem_get_info()[1]
    assert npu.vector_core_count() > 0 and npu.supports_bfloat16()


def test_norms_and_activations() -> None:
    x, residual, weight = random(3, 64), random(3, 64, seed=1), random(64, seed=2)

    def norm(t: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return t * torch.rsqrt(t.square().mean(-1, keepdim=True) + 1e-5) * w

    torch.testing.assert_close(npu.rms_norm(x.npu(), weight.npu(), 1e-5).cpu(), norm(x, weight))
    torch.testing.assert_close(npu.gemma_rms_norm(x.npu(), weight.npu(), 1e-5).cpu(), norm(x, 1 + weight))
    normed, total = npu.add_rms_norm(x.npu(), residual.npu(), weight.npu(), 1e-5)
    torch.testing.assert_close(total.cpu(), x + residual)
    torch.testing.assert_close(normed.cpu(), norm(x + residual, weight))
    torch.testing.assert_close(npu.swiglu(x.npu()).cpu(), torch.nn.functional.silu(x[:, :32]) * x[:, 32:])
    torch.testing.assert_close(npu.fast_gelu(x.npu()).cpu(), x * torch.sigmoid(1.702 * x))
    cubic = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(npu.gelu_tanh(x.npu()).cpu(), cubic)


@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize(("head_size", "rotary"), [(64, 64), (64, 32), (80, 40), (64, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_embedding(head_size: int, rotary: int, neox: bool, dtype: torch.dtype) -> None:
    positions = torch.tensor([4, 0, 17])
    cache = random(20, rotary, dtype=dtype)
    q, k = random(3, 4 * head_size, dtype=dtype), random(3, 2 * head_size, dtype=dtype, seed=1)
    results = npu.rotary_embedding(positions.npu(), q.npu(), k.npu(), cache.npu(), head_size, neox)
    for result, source in zip(results, (q, k), strict=True):
        expected = source.double().clone().view(3, -1, head_size)
        for token, position in enumerate(positions.tolist()):
            for i in range(rotary // 2):
                cos, sin = cache[position, i].double(), cache[position, rotary // 2 + i].double()
                a, b = (i, i + rotary // 2) if neox else (2 * i, 2 * i + 1)
                x, y = expected[token, :, a].clone(), expected[token, :, b].clone()
                expected[token, :, a], expected[token, :, b] = x * cos - y * sin, y * cos + x * sin
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(result.cpu().double(), expected.view(source.shape), rtol=tolerance, atol=tolerance)
        assert result.dtype == dtype


def test_which_rotary_sizes_the_operator_takes() -> None:
    assert npu.rotary_embedding_supports(torch.bfloat16, 128, 64)
    assert not npu.rotary_embedding_supports(torch.bfloat16, 80, 80)
    assert npu.rotary_embedding_supports(torch.float32, 80, 80)


def test_slot_mapping() -> None:
    starts = torch.tensor([0, 3, 3, 5], dtype=torch.int32)  # the second request is empty
    positions = torch.tensor([0, 1, 2, 15, 16])
    table = torch.tensor([[7, 0], [8, 0], [2, 5], [9, 9]], dtype=torch.int32)
    slots = torch.zeros(8, dtype=torch.int64).npu()
    npu.compute_slot_mapping(starts.npu(), positions.npu(), table.npu(), 16, slots)
    assert slots.tolist() == [112, 113, 114, 47, 80, -1, -1, -1]


def test_slot_mapping_of_one_request() -> None:
    slots = torch.zeros(2, dtype=torch.int64).npu()
    table = torch.tensor([[3]], dtype=torch.int32).npu()
    npu.compute_slot_mapping(
        torch.tensor([0, 2], dtype=torch.int32).npu(), torch.tensor([5, 6]).npu(), table, 16, slots
    )
    assert slots.tolist() == [53, 54]


def test_context_slots() -> None:
    table = torch.tensor([[7, 1], [8, 0], [2, 5]], dtype=torch.int32).npu()
    slots, ends = npu.context_slots(table, [2, 0, 18], 16)
    assert slots.tolist() == [112, 113, *range(32, 48), 80, 81] and ends == [2, 2, 20]
    assert slots.dtype == torch.int64


@pytest.mark.parametrize("window", [None, 1, 20])
def test_paged_and_gathered_attention_agree(window: int | None) -> None:
    """The float16 path through the block table and the float32 path through gathered keys are two operators."""
    queries, keys = [1, 9, 40], [130, 9, 50]
    table = torch.tensor([[3, 1], [0, 0], [2, 0]], dtype=torch.int32).npu()
    key_cache, value_cache = (torch.zeros(4, 128, 2, 64, dtype=torch.float16).npu() for _ in range(2))
    slots, ends = npu.context_slots(table, keys, 128)
    key, value = (random(sum(keys), 2, 64, dtype=torch.float16, seed=s).npu() for s in (1, 2))
    npu.scatter_kv_cache(key, value, key_cache, value_cache, slots)
    query = random(sum(queries), 6, 64, dtype=torch.float16).npu()
    shared: dict[str, Any] = {
        "query_ends": list(accumulate(queries)),
        "num_heads": 6,
        "scale": 0.125,
        "causal": True,
        "window": window,
    }
    paged = npu.paged_attention(
        query,
        key_cache.flatten(2),
        value_cache.flatten(2),
        block_table=table,
        kv_lens=keys,
        num_kv_heads=2,
        block_size=128,
        **shared,
    )
    flat = [cache.view(-1, 2, 64).index_select(0, slots).float() for cache in (key_cache, value_cache)]
    gathered = npu.varlen_attention(query.float(), *flat, kv_ends=ends, **shared)
    torch.testing.assert_close(paged.float().cpu(), gathered.cpu(), rtol=2e-3, atol=2e-3)
    if window == 1:  # a token that sees itself only
        own = torch.tensor([129, 138, 188])  # the last key of each request
        last = torch.tensor(shared["query_ends"]) - 1
        torch.testing.assert_close(paged.cpu()[last], value.cpu()[own].repeat_interleave(3, 1))


def test_attention_without_causality() -> None:
    query, key, value = random(2, 1, 64), random(5, 1, 64, seed=1), random(5, 1, 64, seed=2)
    out = npu.varlen_attention(
        query.npu(),
        key.npu(),
        value.npu(),
        query_ends=[2],
        kv_ends=[5],
        num_heads=1,
        scale=1.0,
        causal=False,
        window=None,
    )
    weights = (query[:, 0] @ key[:, 0].T).softmax(-1)
    torch.testing.assert_close(out[:, 0].cpu(), weights @ value[:, 0])


@pytest.mark.parametrize("window", [1, 3, 9])
def test_a_window_to_either_side(window: int) -> None:
    """As many tokens after a token as before it, itself included."""
    tokens = 9
    query, key, value = (random(tokens, 1, 64, seed=seed) for seed in range(3))
    out = npu.varlen_attention(
        query.npu(),
        key.npu(),
        value.npu(),
        query_ends=[tokens],
        kv_ends=[tokens],
        num_heads=1,
        scale=1.0,
        causal=False,
        window=window,
    )
    places = torch.arange(tokens)
    far = (places[:, None] - places[None, :]).abs() >= window
    weights = (query[:, 0] @ key[:, 0].T).masked_fill(far, -torch.inf).softmax(-1)
    torch.testing.assert_close(out[:, 0].cpu(), weights @ value[:, 0])


def test_what_attention_supports() -> None:
    assert npu.paged_attention_supports(torch.bfloat16, 64) and npu.paged_attention_supports(torch.float16, 80)
    assert not npu.paged_attention_supports(torch.float32, 64) and not npu.paged_attention_supports(torch.float16, 20)
    assert npu.varlen_attention_supports(torch.float32, 20) and not npu.varlen_attention_supports(torch.float64, 64)


def test_top_k_top_p_and_its_replacement_agree() -> None:
    from ascend_patch.npu.sampling import _composed, _fused

    logits = (random(5, 40) * 3).npu()
    k = torch.tensor([1, 3, 0, 40, 20], dtype=torch.int32).npu()
    p = torch.tensor([0.5, 0.93, 0.2, 1.0, 0.71]).npu()
    for some_k, some_p in ((k, p), (k, None), (None, p)):
        assert torch.equal(_fused(logits, some_k, some_p).cpu(), _composed(logits, some_k, some_p).cpu())
    assert npu.top_k_top_p(logits, None, None) is logits
    assert npu.top_k_top_p(logits, k, None)[0].isfinite().sum() == 1


@pytest.mark.parametrize("allowed", [False, True])
def test_a_cast_leaves_the_option_as_it_was(allowed: bool) -> None:
    import torch_npu

    torch.npu.config.allow_internal_format = allowed
    try:
        weight = random(33, 40, dtype=torch.float16)
        cast = npu.format_cast_nz(weight.npu())
        assert npu.is_nz(cast) and not npu.is_nz(weight.npu()) and torch.equal(cast.cpu(), weight)
        assert (torch_npu._C._npu_getOption("ALLOW_INTERNAL_FORMAT") == b"enable") == allowed
    finally:
        torch.npu.config.allow_internal_format = False


def test_a_cast_that_torch_npu_does_not_make_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch_npu.npu_format_cast", lambda weight, number: weight)
    with pytest.raises(RuntimeError, match=r"left a weight torch.float16 \[33, 40\] in format ND"):
        npu.format_cast_nz(random(33, 40, dtype=torch.float16).npu())


def test_sizes_that_have_a_place_in_tiles() -> None:
    shapes = [(1, 32), (32, 1), (2, 2), (3, 16, 32), (16, 16), (32, 32)]
    ints = [torch.empty(shape, dtype=torch.int8) for shape in shapes]
    assert [npu.nz_has_a_place_for(weight) for weight in ints] == [False, False, True, True, True, True]
    assert [npu.fills_nz_tiles(weight) for weight in ints] == [False, False, False, True, False, True]
    assert npu.fills_nz_tiles(torch.empty(16, 16, dtype=torch.float16))


def test_attention_over_two_parts_of_the_keys_is_attention_over_all() -> None:
    """The log-sum-exp is what joins them; the last token of each sequence sees all keys."""
    query, key, value = random(2, 4, 64, seed=1), random(9, 2, 64, seed=2), random(9, 2, 64, seed=3)
    given = {"num_heads": 4, "scale": 0.2, "causal": False}

    def part(*rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [torch.cat([rows_of[row] for row in rows]).npu() for rows_of in (key, value)]
        ends = list(accumulate(row.stop - row.start for row in rows))
        return npu.varlen_attention_and_lse(query.npu(), *parts, query_ends=[1, 2], kv_ends=ends, **given)

    (first, first_lse), (second, second_lse) = part(slice(0, 3), slice(5, 6)), part(slice(3, 5), slice(6, 9))
    output, lse = npu.merge_attention(first, first_lse, second, second_lse)
    whole, whole_lse = part(slice(0, 5), slice(5, 9))
    torch.testing.assert_close(output.cpu(), whole.cpu())
    torch.testing.assert_close(lse.cpu(), whole_lse.cpu())
    scores = torch.einsum("hd,khd->hk", query[0].double(), key[:5].double().repeat_interleave(2, 1)) * 0.2
    torch.testing.assert_close(whole_lse[0].cpu().double().squeeze(1), scores.logsumexp(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_integers_come_back_with_one_rounding(dtype: torch.dtype) -> None:
    integers = torch.arange(-128, 128, dtype=torch.int8).view(2, 128)
    scale, offset = random(1, 128, dtype=dtype, seed=4).abs(), torch.full((1, 128), 127.0).to(dtype)
    for given in (None, offset, -offset):
        shift = 0 if given is None else given.double()
        expected = ((integers.double() + shift) * scale.double()).to(dtype)
        result = npu.dequantise(integers.npu(), scale.npu(), None if given is None else given.npu())
        assert torch.equal(result.cpu(), expected)
