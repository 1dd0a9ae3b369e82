"""One layer of experts whose weights alone are quantized, against sums in float64; the tokens' experts are given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ascend_patch.patches.quantization._packed_configs import Scheme
from tests.models.packed import _along_columns

pytestmark = pytest.mark.usefixtures("device")
EXPERTS, HIDDEN, INNER, TOKENS, CHOSEN = 4, 128, 64, 9, 2
HALVES = [pytest.param(torch.float16, id="half"), pytest.param(torch.bfloat16, id="brain")]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SCHEMES = {
    "groups": Scheme(4, 32, shifted=False),
    "groups-shifted": Scheme(4, 32, shifted=True),
    "columns": Scheme(4, -1, shifted=False),
    "columns-shifted": Scheme(4, -1, shifted=True),
    "bytes": Scheme(8, -1, shifted=False),
    "bytes-shifted": Scheme(8, -1, shifted=True),
}
CASES = [
    (layout, scheme)
    for layout in ("COMPRESSED", "GPTQ", "AWQ")
    for scheme in SCHEMES
    if layout != "AWQ" or scheme in ("groups-shifted", "columns-shifted")
]


def packed(numbers: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """int32 with several columns in one."""
    wide = _along_columns(numbers.long(), bits, order or tuple(range(32 // bits)))
    return torch.where(wide >= 2**31, wide - 2**32, wide).int()


def tensors(layout: str, scheme: Scheme, numbers: torch.Tensor, points: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a checkpoint has of a matrix: `numbers` ``[k, n]`` and `points` ``[groups, n]``, from 0."""
    bits = scheme.bits
    if layout == "COMPRESSED":
        parts = {"weight_packed": packed(numbers.t(), bits), "weight_shape": torch.tensor([*numbers.t().shape])}
        return parts | ({"weight_zero_point": packed(points, bits).t()} if scheme.shifted else {})
    if layout == "AWQ":
        return {"qweight": packed(numbers, 4, AWQ_ORDER), "qzeros": packed(points, 4, AWQ_ORDER)}
    groups = torch.arange(numbers.shape[0]) // (numbers.shape[0] if scheme.group == -1 else scheme.group)
    return {"qweight": packed(numbers.t(), bits).t(), "qzeros": packed(points - 1, bits), "g_idx": groups.int()}


def made(
    layout: str, scheme: Scheme, dtype: torch.dtype, ranks: int = 1, rank: int = 0
) -> tuple[Any, SimpleNamespace, dict[tuple[int, str], torch.Tensor]]:
    """A method, a layer that it has prepared, and each expert's matrices ``[k, n]`` in float64."""
    from ascend_patch.patches.quantization import _experts_layouts
    from ascend_patch.patches.quantization._weight_only_experts import AscendWeightOnlyExperts

    form, scheme = getattr(_experts_layouts, layout), scheme._replace(minus_one=layout == "GPTQ")
    moe = SimpleNamespace(tp_size=ranks, tp_rank=rank, has_bias=False)
    layer = torch.nn.Module()
    vars(layer).update(
        moe_config=moe,
        expert_map=None,
        local_num_experts=EXPERTS,
        activation="silu",
        apply_router_weight_on_input=False,
        _map_global_expert_id_to_local_expert_id=lambda number: number,
    )
    method = AscendWeightOnlyExperts(moe, "experts", scheme, form)
    method.create_weights(layer, EXPERTS, HIDDEN, INNER // ranks, dtype)
    layer.npu()
    generator = torch.Generator().manual_seed(7)
    exact = {}
    for expert in range(EXPERTS):
        for shard, name, (rows, columns) in (
            ("w1", "w13", (HIDDEN, INNER)), ("w3", "w13", (HIDDEN, INNER)), ("w2", "w2", (INNER, HIDDEN)),
        ):  # fmt: skip
            count = 1 if scheme.group == -1 else rows // scheme.group
            middle = 2 ** (scheme.bits - 1)
            numbers = torch.randint(0, 2 * middle, (rows, columns), generator=generator)
            points = torch.full((count, columns), middle)
            if scheme.shifted:
                points = torch.randint(1, middle, (count, columns), generator=generator)
            scale = (torch.rand(count, columns, generator=generator) / middle / 4).to(dtype)
            size = rows // count
            wide = [value.double().repeat_interleave(size, 0) for value in (points, scale)]
            exact[expert, shard] = (numbers.double() - wide[0]) * wide[1]
            parts = tensors(layout, scheme, numbers, points)
            parts[form.scale] = scale.t() if layout == "COMPRESSED" else scale
            for part, value in parts.items():
                param = getattr(layer, f"{name}_{part}")
                loaded = param.weight_loader(
                    param=param, loaded_weight=value, weight_name=part, shard_id=shard, expert_id=expert,
                    return_success=True,
                )  # fmt: skip
                assert loaded is True
    method.process_weights_after_loading(layer)
    return method, layer, exact  # type: ignore[return-value]


def answers(
    method: Any, layer: Any, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the layer, with the tokens, their experts and the experts' weights."""
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype)
    experts = torch.stack([torch.randperm(EXPERTS, generator=generator)[:CHOSEN] for _ in range(TOKENS)])
    weights = torch.rand(TOKENS, CHOSEN, generator=generator)
    from ascend_patch.patches.moe._experts import over_experts

    result = over_experts(method.computed, layer, x.npu(), weights.npu(), experts.int().npu())
    return result.cpu(), x, experts, weights


def expected(
    exact: dict[tuple[int, str], torch.Tensor], x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    rows = []
    for token, row in enumerate(experts.tolist()):
        total = torch.zeros(HIDDEN, dtype=torch.float64)
        for place, expert in enumerate(row):
            gate, up = (x[token].double() @ exact[expert, shard] for shard in ("w1", "w3"))
            total += weights[token, place].double() * ((F.silu(gate) * up) @ exact[expert, "w2"])
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("layout", "scheme"), CASES)
def test_a_layer(layout: str, scheme: str, dtype: torch.dtype) -> None:
    method, layer, exact = made(layout, SCHEMES[scheme], dtype)
    result, *given = answers(method, layer, dtype)
    wanted = expected(exact, *given)
    assert (result.dtype, result.shape) == (dtype, wanted.shape)
    # Weights, inner values and the sum are rounded: some steps of the largest magnitude.
    assert (result.double() - wanted).abs().max() <= 8 * torch.finfo(dtype).eps * wanted.abs().max()


@pytest.mark.parametrize(
    ("layout", "scheme"), [("COMPRESSED", "groups"), ("GPTQ", "columns-shifted"), ("AWQ", "groups-shifted")]
)
def test_what_two_ranks_answer_adds_up(layout: str, scheme: str) -> None:
    parts = []
    for rank in range(2):
        method, layer, exact = made(layout, SCHEMES[scheme], torch.float16, ranks=2, rank=rank)
        part, *given = answers(method, layer, torch.float16)
        parts.append(part.double())
    wanted = expected(exact, *given)
    assert (sum(parts) - wanted).abs().max() <= 8 * torch.finfo(torch.float16).eps * wanted.abs().max()


def test_groups_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tensors
    monkeypatch.setitem(
        globals(), "tensors", lambda *given: {**(parts := original(*given)), "g_idx": parts["g_idx"].flip(0)}
    )
    with pytest.raises(ValueError, match=r"another order than that of its rows.*quantize with desc_act=False"):
        made("GPTQ", SCHEMES["groups"], torch.float16)


def test_a_matrix_of_other_sizes_is_refused() -> None:
    method, layer, _ = made("AWQ", SCHEMES["groups-shifted"], torch.float16)
    method.create_weights(layer, EXPERTS, HIDDEN, INNER, torch.float16)
    param = layer.w2_scales
    with pytest.raises(ValueError, match=r"scales of expert 1 is \[1, 128\], where .* configuration says \[2, 128\]"):
        param.weight_loader(param, torch.ones(1, HIDDEN), "scales", shard_id="w2", expert_id=1)
