"""One layer of experts with adapters against matrices merged per token; which configurations are refused."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ascend_patch.engine import marks
from ascend_patch.hostcann import trace
from ascend_patch.patches.lora import _experts, _limits
from ascend_patch.patches.moe import _experts as moe

TOKENS, HIDDEN, INNER, EXPERTS, CHOSEN, SLOTS, RANK = 13, 64, 48, 6, 3, 3, 8
HELD = [2, 3]


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def on_device(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(on_device(each, dtype) for each in value)
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(dtype).npu() if value.is_floating_point() else value.npu()


class Case:
    """Experts, adapters for them in vLLM's shapes, and tokens: the first has no adapter, nor have some others."""

    def __init__(
        self, activation: str, slices: int, dtype: torch.dtype = torch.float32, on_input: bool = False
    ) -> None:
        self.activation, self.dtype, self.on_input = activation, dtype, on_input
        self.w13, self.w2 = random(EXPERTS, 2 * INNER, HIDDEN, seed=1), random(EXPERTS, HIDDEN, INNER, seed=2)
        self.a13 = tuple(random(SLOTS, EXPERTS, RANK, HIDDEN, seed=10 + place) for place in range(slices))
        width = 2 * INNER // slices
        self.b13 = tuple(random(SLOTS, EXPERTS, width, RANK, seed=20 + place) for place in range(slices))
        self.a2, self.b2 = random(SLOTS, EXPERTS, RANK, INNER, seed=30), random(SLOTS, EXPERTS, HIDDEN, RANK, seed=31)
        self.mapping = torch.tensor([(token % (SLOTS + 1)) - 1 for token in range(TOKENS)], dtype=torch.int32)
        self.x = random(TOKENS, HIDDEN, seed=40)
        k = 1 if on_input else CHOSEN
        self.weights = random(TOKENS, k, seed=41).abs()
        each = [torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(token)) for token in range(TOKENS)]
        self.experts = torch.stack(each)[:, :k].int()

    def layer(self, held: list[int] | None = None) -> Any:
        """vLLM's layer with what lora.experts has left there, for the experts of one rank."""
        chosen = list(range(EXPERTS)) if held is None else held
        created = {
            "w13_lora_a_stacked": tuple(each[:, chosen] for each in self.a13),
            "w13_lora_b_stacked": tuple(each[:, chosen] for each in self.b13),
            "w2_lora_a_stacked": (self.a2[:, chosen],),
            "w2_lora_b_stacked": (self.b2[:, chosen],),
        }
        # As long as a batch may be, with an adapter that is not there any more behind the tokens.
        mapping = torch.cat((self.mapping, torch.full((5,), SLOTS - 1, dtype=torch.int32)))
        meta = SimpleNamespace(token_lora_mapping=mapping.npu(), no_lora_flag_cpu=torch.tensor([False]))
        adapters = SimpleNamespace(
            punica_wrapper=SimpleNamespace(token_mapping_meta=meta), fully_sharded=False, tp_rank=0
        )

        def create(self: Any, max_loras: int, lora_config: Any) -> None:
            vars(self).update(created)

        _experts.by_experts(create)(adapters, SLOTS, None)
        for name, stacked in created.items():
            assert [each.tolist() for each in getattr(adapters, name)] == [each.tolist() for each in stacked]
            # A copy on another device keeps its layout where that is dense.
            setattr(adapters, name, on_device(getattr(adapters, name), self.dtype))
        layer = SimpleNamespace(
            activation=self.activation,
            apply_router_weight_on_input=self.on_input,
            w13_weight=on_device(self.w13[chosen], self.dtype),
            w2_weight=on_device(self.w2[chosen], self.dtype),
            expert_map=None,
            local_num_experts=len(self.w13[chosen]),
            npu_manager=None,
            adapters=adapters,
        )
        if held is not None:
            expert_map = torch.full((EXPERTS,), -1, dtype=torch.int32)
            expert_map[held] = torch.arange(len(held), dtype=torch.int32)
            layer.expert_map = expert_map.npu()
            layer.npu_placement = moe.placement_of(expert_map)
        layer.quant_method = Method()
        adapters.base_layer = layer
        _experts.hand_to_experts(adapters)
        return layer

    def run(self, layer: Any) -> torch.Tensor:
        x, weights = on_device(self.x, self.dtype), self.weights.npu()
        result: torch.Tensor = moe.forward_oot(None, layer, x, weights, self.experts.npu())
        assert result.dtype == self.dtype
        return result

    def merged(self, held: list[int] | None = None) -> torch.Tensor:
        """The same token by token, each with matrices of its own, in float64."""
        total = torch.zeros(TOKENS, HIDDEN, dtype=torch.float64)
        for token in range(TOKENS):
            slot = int(self.mapping[token])
            for weight, expert in zip(self.weights[token].double(), self.experts[token].tolist(), strict=True):
                if held is not None and expert not in held:
                    continue
                w13, w2 = self.w13[expert].double(), self.w2[expert].double()
                if slot >= 0:
                    changes = [
                        b[slot, expert].double() @ a[slot, expert].double()
                        for a, b in zip(self.a13, self.b13, strict=True)
                    ]
                    alternate = self.activation == "swigluoai" and len(changes) == 2
                    w13 = w13 + (torch.stack(changes, 1).flatten(0, 1) if alternate else torch.cat(changes))
                    w2 = w2 + self.b2[slot, expert].double() @ self.a2[slot, expert].double()
                row = self.x[token].double()
                both = w13 @ (row * weight if self.on_input else row)
                answer = w2 @ activate(self.activation, both)
                total[token] += answer if self.on_input else weight * answer
        return total


class Method:
    forward_oot = moe.forward_oot


def activate(name: str, both: torch.Tensor) -> torch.Tensor:
    if name == "silu":
        gate, up = both.chunk(2)
        return torch.nn.functional.silu(gate) * up
    gate, up = both[::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("activation", ["silu", "swigluoai"])
def test_tokens_have_the_experts_of_their_adapters(activation: str, slices: int, dtype: torch.dtype) -> None:
    case = Case(activation, slices, dtype)
    expected = case.merged()
    tolerance = (1e-5 if dtype == torch.float32 else 2e-2) * float(expected.abs().max())
    torch.testing.assert_close(case.run(case.layer()).cpu().double(), expected, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("device")
def test_weights_on_the_input_count_for_adapters_as_well() -> None:
    case = Case("silu", 2, on_input=True)
    torch.testing.assert_close(case.run(case.layer()).cpu().double(), case.merged(), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("device")
def test_a_rank_adds_what_its_own_experts_answer() -> None:
    case = Case("silu", 2)
    torch.testing.assert_close(case.run(case.layer(HELD)).cpu().double(), case.merged(HELD), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("device")
def test_ranks_meet_in_the_order_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fully sharded adapters; the order of rows is each rank's own, because its slots are.

    This is the second rank of two: it has the second half of the ranks of gate and up, and of the columns of down.
    """
    case = Case("silu", 2)
    half = RANK // 2
    first_halves = [each[:, :, :half].clone() for each in case.a13]
    whole_b2 = case.b2.clone()
    whole_b2[:, :, : HIDDEN // 2] = 0
    expected_case = Case("silu", 2)
    expected_case.b2 = whole_b2
    expected = expected_case.merged()

    def of_first_rank(weights: torch.Tensor) -> torch.Tensor:
        slots = case.mapping.long().unsqueeze(1).expand(TOKENS, CHOSEN)
        chosen = weights[slots.clamp(min=0), case.experts.long()]
        products = (chosen @ case.x.view(TOKENS, 1, HIDDEN, 1)).squeeze(3)
        return products.masked_fill((slots < 0).unsqueeze(2), 0).flatten(0, 1)

    monkeypatch.setattr(
        _experts, "gathered", lambda own: torch.cat((of_first_rank(first_halves.pop(0)).npu(), own), dim=1)
    )
    monkeypatch.setattr(_experts, "summed", lambda own: own)
    case.a13 = tuple(each[:, :, half:] for each in case.a13)
    case.b2 = case.b2[:, :, HIDDEN // 2 :]
    layer = case.layer()
    layer.adapters.fully_sharded, layer.adapters.tp_rank = True, 1
    torch.testing.assert_close(case.run(layer).cpu().double(), expected, rtol=1e-5, atol=1e-5)
    assert not first_halves


@pytest.mark.usefixtures("device")
def test_a_batch_without_adapters_has_the_operators_of_one() -> None:
    """The mapping is that of an earlier step then."""
    case = Case("silu", 2)
    layer = case.layer()
    layer.adapters.punica_wrapper.token_mapping_meta.no_lora_flag_cpu[0] = True
    with trace.recording() as counts:
        found = case.run(layer)
        assert counts()["aclnn"]["aclnnGroupedMatmulV5"]["calls"] == 2
    case.mapping.fill_(-1)
    torch.testing.assert_close(found.cpu().double(), case.merged(), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("held", [None, HELD], ids=["whole", "part"])
def test_nothing_waits_for_the_device(held: list[int] | None) -> None:
    """Nor are the adapters' matrices copied: six products of them, of as many groups as they are."""
    case = Case("silu", 2)
    layer = case.layer(held)
    x, weights, experts = case.x.npu(), case.weights.npu(), case.experts.npu()
    with trace.recording() as counts:
        moe.forward_oot(None, layer, x, weights, experts)
        seen = counts()
    launched = {name: count["calls"] for kind in ("aclnn", "aten") for name, count in seen[kind].items()}
    assert not seen["sync"] and launched["aclnnGroupedMatmulV5"] == 8
    # The cast of places, and the flags of tokens as flags of their rows: [tokens, k] both.
    assert seen["copy"] == {"device_to_device": {"calls": 1, "bytes": TOKENS * CHOSEN * 4}}
    assert launched.get("clone") == 1 and "contiguous" not in launched


def test_experts_with_quantized_weights_are_refused() -> None:
    layer = SimpleNamespace(quant_method=SimpleNamespace())
    with pytest.raises(ValueError, match=r"not quantized.*SimpleNamespace.*--lora-target-modules"):
        _experts.hand_to_experts(SimpleNamespace(base_layer=layer))
    assert not hasattr(layer, "npu_with_adapters")


def configuration(**options: Any) -> Any:
    """Of a model of 128 experts with adapters on two devices; `options` go to the part that has them."""
    lora: dict[str, Any] = {"max_loras": 8, "target_modules": None, "lora_dtype": torch.bfloat16}
    lora.update(enable_moe_shared_loras=False, fully_sharded_loras=False)
    parallel: dict[str, Any] = {
        "data_parallel_size": 1,
        "tensor_parallel_size": 2,
        "enable_expert_parallel": False,
        "enable_eplb": False,
    }
    for name, value in options.items():
        (lora if name in lora else parallel)[name] = value
    return SimpleNamespace(
        lora_config=SimpleNamespace(**lora),
        parallel_config=SimpleNamespace(**parallel),
        model_config=SimpleNamespace(get_num_experts=lambda: 128, dtype=torch.bfloat16),
    )


def slice_of_0_13(self: Any, w13_lora_a: Any) -> None:
    sliced_rank = None  # noqa: F841


def slice_of_0_14(self: Any, w13_lora_a: Any) -> None:
    shard_size = None  # noqa: F841


@pytest.fixture
def in_force(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's module as lora.experts leaves it; the function is the test's to change."""
    module: Any = ModuleType("vllm.lora.layers.fused_moe")
    create = _experts.by_experts(lambda *_: None)
    marks.mark(create, "lora.experts")
    functions = {"_create_lora_a_weights": create, "_slice_w13_a": slice_of_0_14, "_verify_ep_fs": lambda *_: None}
    module.FusedMoEWithLoRA = type("FusedMoEWithLoRA", (), functions)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.FusedMoEWithLoRA


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, ""),
        ({"max_loras": 9}, r"128 experts of a rank have room for 8 adapters .* --max-loras asks for 9: lower it"),
        ({"max_loras": 16, "enable_expert_parallel": True}, ""),
        ({"max_loras": 17, "enable_expert_parallel": True}, r"64 experts .* 16 adapters"),
        # Four experts of a rank would have room for 256, but tokens are sorted by all experts.
        ({"max_loras": 81, "enable_expert_parallel": True, "tensor_parallel_size": 32}, r"4 experts .* 80 adapters"),
        ({"max_loras": 9, "target_modules": ["q_proj", "shared_experts"]}, ""),
        ({"max_loras": 9, "target_modules": ["q_proj", "experts"]}, r"lower it"),
        ({"max_loras": 9, "target_modules": ["model.layers.0.mlp.experts"]}, r"lower it"),
        ({"lora_dtype": "auto"}, ""),
        ({"lora_dtype": "bfloat16"}, ""),
        ({"lora_dtype": torch.float16}, r"not float16: leave --lora-dtype out"),
        ({"data_parallel_size": 2}, r"--tensor-parallel-size instead of data or context parallelism"),
        ({"prefill_context_parallel_size": 2}, r"instead of data or context parallelism"),
        (
            {"enable_expert_parallel": True, "fully_sharded_loras": True},
            r"leave --enable-expert-parallel or --fully-sharded-loras out",
        ),
        ({"enable_eplb": True}, r"leave --enable-eplb out"),
        ({"enable_moe_shared_loras": True}, r"leave --enable-moe-shared-loras out"),
    ],
    ids=str,
)
def test_what_is_refused(options: dict[str, Any], reason: str, in_force: Any) -> None:
    found = _limits.why_not(configuration(**options))
    assert bool(found) == bool(reason) and re.search(reason, found), found


def test_what_0_13_shares_out_wrongly_is_refused(in_force: Any) -> None:
    assert not _limits.why_not(configuration(fully_sharded_loras=True))
    in_force._slice_w13_a = slice_of_0_13
    assert re.search(r"leave --fully-sharded-loras out", _limits.why_not(configuration(fully_sharded_loras=True)))
    assert not _limits.why_not(configuration())


def test_before_0_21_ranks_cannot_share_experts_out_whole(in_force: Any) -> None:
    assert not _limits.why_not(configuration(enable_expert_parallel=True))
    del in_force._verify_ep_fs
    found = _limits.why_not(configuration(enable_expert_parallel=True))
    assert found.endswith("leave --enable-expert-parallel out, or use vLLM 0.21 or newer")
    assert not _limits.why_not(configuration())


def test_without_the_patch_its_remedy_is_named(in_force: Any) -> None:
    in_force._create_lora_a_weights = configuration  # any function without a mark
    assert _limits.why_not(configuration()).endswith("run 'ascend-patch enable lora.experts'")
    assert not _limits.why_not(configuration(target_modules=["q_proj"]))
