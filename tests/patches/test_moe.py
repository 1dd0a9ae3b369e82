"""Routing and experts of one layer against transformers' own modules, for what no whole model here covers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ascend_patch import npu
from ascend_patch.patches.moe import _experts, _routing

pytestmark = pytest.mark.usefixtures("device")
TOKENS, HIDDEN = 11, 64


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer(**options: Any) -> SimpleNamespace:
    """What `forward_oot` reads of vLLM's layer; tensors go to the device."""
    values = {
        "activation": "silu",
        "expert_map": None,
        "npu_manager": None,
        "apply_router_weight_on_input": False,
        **options,
    }
    if "w13_weight" in options:
        values["local_num_experts"] = len(options["w13_weight"])
    return SimpleNamespace(
        **{name: value.npu() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
    )


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed) * 0.2)
    return module.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpt_oss_experts(dtype: torch.dtype) -> None:
    """Biases, gate and up that alternate, clipping, and a gate that chooses before its softmax."""
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

    config = GptOssConfig(hidden_size=HIDDEN, intermediate_size=96, num_local_experts=6, num_experts_per_tok=3)
    module: Any = randomised(GptOssMLP(config)).to(dtype)
    x = random(TOKENS, HIDDEN, seed=50, dtype=dtype) * 4
    with torch.no_grad():
        logits, scores, chosen = module.router(x)
    empty = torch.empty(TOKENS, 3, dtype=torch.int32).npu()
    weights, experts = _routing.topk_softmax(None, empty, None, logits.npu(), True)
    assert experts.tolist() == chosen.tolist()
    tolerance = 1e-6 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(weights.cpu(), scores.float(), rtol=tolerance, atol=tolerance)
    biased = layer(
        activation="swigluoai",
        w13_weight=module.experts.gate_up_proj.detach().transpose(1, 2).contiguous(),
        w2_weight=module.experts.down_proj.detach().transpose(1, 2).contiguous(),
        w13_bias=module.experts.gate_up_proj_bias.detach(),
        w2_bias=module.experts.down_proj_bias.detach(),
    )
    _widen(biased)
    out = _experts.forward_oot(None, biased, x.npu(), weights, experts)
    with torch.no_grad():  # in float32: its bfloat16 rounds after every expert
        expected = module.experts.float()(x.float(), chosen, weights.cpu())
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.cpu().float(), expected, rtol=tolerance, atol=float(expected.abs().max()) * tolerance
    )


def _widen(biased: Any) -> None:
    """What happens to biases when weights were loaded."""
    from ascend_patch.patches.moe.experts import then_prepare_experts

    seen = []
    then_prepare_experts(lambda method, given: seen.append(given))(None, biased)
    assert seen == [biased] and not hasattr(biased, "npu_placement")
    assert {biased.w13_bias.dtype, biased.w2_bias.dtype} == {torch.float32}


def grouped(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    def plain(*arguments: Any) -> Any:
        raise AssertionError("vLLM's own function was asked")

    arguments = {"hidden_states": None, "topk": 4, "renormalize": True, "num_expert_group": 4, "topk_group": 2}
    weights, experts = _routing.where_operator_fits(plain)(**{**arguments, **options})
    return weights.cpu(), experts.cpu()


def test_deepseek_v3_gating() -> None:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    config = DeepseekV3Config(hidden_size=HIDDEN, moe_intermediate_size=32, n_routed_experts=16, n_group=4,
                              topk_group=2, num_experts_per_tok=4, routed_scaling_factor=2.5)  # fmt: skip
    module: Any = randomised(DeepseekV3MoE(config))
    module.gate.e_score_correction_bias.copy_(random(16, seed=9))
    x = random(TOKENS, HIDDEN, seed=51)
    with torch.no_grad():
        expected = module(x.unsqueeze(0))[0] - module.shared_experts(x)
    weights, experts = grouped(
        gating_output=F.linear(x, module.gate.weight.detach()).npu(),
        scoring_func="sigmoid",
        routed_scaling_factor=2.5,
        e_score_correction_bias=module.gate.e_score_correction_bias.npu(),
    )
    routed = layer(w13_weight=module.experts.gate_up_proj.detach(), w2_weight=module.experts.down_proj.detach())
    out = _experts.forward_oot(None, routed, x.npu(), weights.npu(), experts.npu())
    torch.testing.assert_close(out.cpu(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_softmax_by_groups(biased: bool, renormalize: bool) -> None:
    logits, bias = random(TOKENS, 16, seed=3), random(16, seed=4) if biased else None
    weights, experts = grouped(
        gating_output=logits.npu(),
        renormalize=renormalize,
        routed_scaling_factor=1.5,
        e_score_correction_bias=None if bias is None else bias.npu(),
    )
    scores = logits.double().softmax(-1)
    choice = scores if bias is None else scores + bias
    by_group = choice.view(TOKENS, 4, 4)
    groups = (by_group.topk(2)[0].sum(-1) if biased else by_group.amax(-1)).topk(2)[1]
    kept = torch.zeros(TOKENS, 4, dtype=torch.bool).scatter_(1, groups, True).repeat_interleave(4, 1)
    order = choice.masked_fill(~kept, -torch.inf).topk(4)[1]
    expected = scores.gather(1, order)
    if renormalize:
        expected = expected / expected.sum(-1, keepdim=True)
    assert experts.tolist() == order.tolist()
    torch.testing.assert_close(weights.double(), expected * 1.5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_one_group(sigmoid: bool, biased: bool, renormalize: bool) -> None:
    logits, bias = random(TOKENS, 10, seed=5), random(10, seed=6) if biased else None
    route = _routing.topk_sigmoid if sigmoid else _routing.topk_softmax
    places = torch.empty(TOKENS, 3, dtype=torch.int64).npu()
    weights, experts = route(None, places, None, logits.npu(), renormalize, None if bias is None else bias.npu())
    scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
    order = (scores if bias is None else scores + bias).topk(3)[1]
    expected = scores.gather(1, order)
    if renormalize:
        expected = expected / expected.sum(-1, keepdim=True)
    assert experts.dtype == torch.int64 and experts.tolist() == order.tolist()
    torch.testing.assert_close(weights.cpu(), expected, rtol=1e-5, atol=1e-6)


def test_what_the_operator_does_not_take_goes_to_vllm() -> None:
    asked = []
    function = _routing.where_operator_fits(lambda *arguments: asked.append(arguments))  # type: ignore[arg-type]
    logits = random(2, 12)
    function(None, logits, 2, True, num_expert_group=5, topk_group=1)  # groups of different sizes
    function(None, logits, 2, False, num_expert_group=4, topk_group=1, scoring_func="sigmoid")
    assert [(arguments[4], arguments[6]) for arguments in asked] == [(5, "softmax"), (4, "sigmoid")]


def test_a_weight_on_the_input() -> None:
    """Llama 4: one expert per token, which sees the token times its weight."""
    x, weights = random(TOKENS, HIDDEN), random(TOKENS, 1, seed=1).sigmoid()
    experts = (torch.arange(TOKENS) % 3).int().unsqueeze(1)
    up, down = random(3, 96, HIDDEN, seed=2) / 8, random(3, HIDDEN, 48, seed=3) / 8
    weighed = layer(w13_weight=up, w2_weight=down, apply_router_weight_on_input=True)
    out = _experts.forward_oot(None, weighed, x.npu(), weights.npu(), experts.npu())
    for token, expert in enumerate(experts[:, 0].tolist()):
        gate, value = (up[expert] @ (x[token] * weights[token])).chunk(2)
        torch.testing.assert_close(out[token].cpu(), down[expert] @ (F.silu(gate) * value), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["silu", "swigluoai_uninterleave"])
def test_clipped_activations(name: str) -> None:
    x = random(4, 64) * 4
    shape = {"silu": (1.0, 0.0), "swigluoai_uninterleave": (1.7, 1.0)}[name]
    clipped = layer(
        activation=SimpleNamespace(value=name), swiglu_limit=2.0, swiglu_alpha=shape[0], swiglu_beta=shape[1]
    )
    gate, up = x.chunk(2, -1)
    gate, up = gate.clamp(max=2.0), up.clamp(-2.0, 2.0)
    expected = gate * torch.sigmoid(shape[0] * gate) * (up + shape[1])
    torch.testing.assert_close(_experts.activated(clipped, x.npu()).cpu(), expected)


def test_refusals_name_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="with the activation 'gelu'; it has silu, swigluoai"):
        _experts.activated(layer(activation="gelu"), random(2, 8).npu())
    with pytest.raises(ValueError, match=r"ascending order; vLLM places them as \[1, 0, -1\]"):
        _experts.placement_of(torch.tensor([1, 0, -1]))


# The experts of each rank: vLLM's linear placement of eight and of seven on three ranks, and its round robin.
PLACEMENTS = {
    "one range": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "ranges of different sizes": [[0, 1, 2], [3, 4, 5], [6, 7]],
    "round robin": [[0, 3, 6], [1, 4, 7], [2, 5]],
    "nothing here": [[0], [1, 2, 3, 4, 5, 6, 7]],
}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("on_input", [False, True])
def test_ranks_of_expert_parallelism_add_up(on_input: bool, placement: str) -> None:
    k = 1 if on_input else 3
    x, weights = random(TOKENS, HIDDEN), random(TOKENS, k, seed=1).sigmoid()
    # No token goes to expert 0.
    experts = torch.stack(
        [torch.randperm(7, generator=torch.Generator().manual_seed(t))[:k] + 1 for t in range(TOKENS)]
    )
    up, down = random(8, 64, HIDDEN, seed=2) / 8, random(8, HIDDEN, 32, seed=3) / 8
    whole = layer(w13_weight=up, w2_weight=down, apply_router_weight_on_input=on_input)
    total = torch.zeros(TOKENS, HIDDEN)
    for held in PLACEMENTS[placement]:
        expert_map = torch.full((8,), -1, dtype=torch.int32)
        expert_map[held] = torch.arange(len(held), dtype=torch.int32)
        rank = layer(w13_weight=up[held], w2_weight=down[held], apply_router_weight_on_input=on_input,
                     expert_map=expert_map)  # fmt: skip
        rank.npu_placement = _experts.placement_of(rank.expert_map)
        out = _experts.forward_oot(None, rank, x.npu(), weights.npu(), experts.npu())
        for token in range(TOKENS):
            if not set(experts[token].tolist()) & set(held):
                assert not out[token].any()
        total += out.cpu()
    expected = _experts.forward_oot(None, whole, x.npu(), weights.npu(), experts.npu())
    torch.testing.assert_close(total, expected.cpu(), rtol=1e-5, atol=1e-5)


def test_a_rank_computes_the_rows_of_its_experts_alone() -> None:
    """As the device saw it: the experts of other ranks and the rows for them are not read."""
    held = [2, 3]
    placement = _experts.placement_of(torch.tensor([-1, -1, 0, 1, -1, -1]))
    experts = torch.tensor([[2, 0], [5, 1], [3, 2]], dtype=torch.int32)
    _, places, counts = npu.route_tokens(random(3, HIDDEN).npu(), experts.npu(), placement.numbers, placement.held)
    assert counts.tolist() == [sum(expert == one for expert in experts.flatten().tolist()) for one in held]
    assert [place >= 0 for place in places.tolist()] == [expert in held for expert in experts.flatten().tolist()]


@pytest.mark.parametrize("parallel", [False, True])
def test_no_operator_of_a_layer_waits_for_the_device(parallel: bool) -> None:
    from ascend_patch.hostcann import trace

    expert_map = torch.tensor([-1] * 4 + [*range(8)], dtype=torch.int32) if parallel else None
    routed = layer(w13_weight=random(8, 64, HIDDEN), w2_weight=random(8, HIDDEN, 32), expert_map=expert_map)
    if parallel:
        routed.npu_placement = _experts.placement_of(routed.expert_map)
    x, logits = random(TOKENS, HIDDEN).npu(), random(TOKENS, 12 if parallel else 8).npu()
    empty = torch.empty(TOKENS, 2, dtype=torch.int32).npu()
    with trace.recording() as counts:
        weights, experts = _routing.topk_softmax(None, empty, None, logits, True)
        _experts.forward_oot(None, routed, x, weights, experts)
        seen = counts()
    assert not seen["sync"] and not seen["copy"]
    launched = {name: count["calls"] for kind in ("aclnn", "aten") for name, count in seen[kind].items()}
    assert launched == {
        "aclnnMoeGatingTopKSoftmaxV2": 1,
        "aclnnMoeInitRoutingV3": 1,
        "aclnnGroupedMatmulV5": 2,
        "aclnnSwiGlu": 1,
        "aclnnMoeFinalizeRoutingV2": 1,
    }
