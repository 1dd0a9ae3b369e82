"""One layer of experts in int8 against integers expert by expert: closer than a whole model allows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ascend_patch import npu
from ascend_patch.patches.quantization import _int8_experts

pytestmark = pytest.mark.usefixtures("device")
TOKENS, HIDDEN, INNER, EXPERTS, CHOSEN = 9, 48, 48, 6, 3


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().amax(-1, keepdim=True) / 127
    return torch.round(weight / scale).to(torch.int8), scale


def made(**options: Any) -> SimpleNamespace:
    """A layer as it is loaded: weights ``[experts, columns, depth]``, scales ``[experts, columns, 1]``."""
    (w13, w13_scale), (w2, w2_scale) = (
        quantised(random(EXPERTS, columns, depth, seed=seed))
        for seed, (columns, depth) in enumerate(((2 * INNER, HIDDEN), (HIDDEN, INNER)))
    )
    tensors = {"w13_weight": w13, "w13_weight_scale": w13_scale, "w2_weight": w2, "w2_weight_scale": w2_scale}
    values = {"activation": "silu", "expert_map": None, "apply_router_weight_on_input": False, **options}
    values["local_num_experts"] = EXPERTS
    return SimpleNamespace(**{name: value.npu() for name, value in tensors.items()}, **values)


def in_integers(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    step = x.double().abs().amax(-1, keepdim=True) / 127
    return (torch.round(x.double() / step) @ weight.double().T) * step * scale.double().T


@pytest.mark.parametrize("weight_format", ["nz", "nd"])
@pytest.mark.parametrize("on_input", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_experts_one_after_another(
    dtype: torch.dtype, on_input: bool, weight_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ASCEND_PATCH_INTEGER_FORMAT", weight_format)
    chosen_per_token = 1 if on_input else CHOSEN
    layer = made(apply_router_weight_on_input=on_input)
    stored = {name: value.cpu() for name, value in vars(layer).items() if isinstance(value, torch.Tensor)}
    method = SimpleNamespace(moe=SimpleNamespace(in_dtype=dtype))
    _int8_experts.process_weights_after_loading(method, layer)
    # The columns of the second one do not fill tiles of 32.
    assert [npu.is_nz(layer.w13_weight.data), npu.is_nz(layer.w2_weight.data)] == [weight_format == "nz", False]
    x = random(TOKENS, HIDDEN, seed=3).to(dtype)
    weights = random(TOKENS, chosen_per_token, seed=4).abs()
    experts = torch.stack([torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(i)) for i in range(TOKENS)])
    experts = experts[:, :chosen_per_token].int()
    result = _int8_experts.apply(method, layer, x.npu(), weights.npu(), experts.npu())

    expected = torch.zeros(TOKENS, HIDDEN, dtype=torch.float64)
    for token in range(TOKENS):
        for weight, expert in zip(weights[token], experts[token].tolist(), strict=True):
            row = (x[token] * weight.to(dtype) if on_input else x[token]).unsqueeze(0)
            both = in_integers(row, stored["w13_weight"][expert], stored["w13_weight_scale"][expert]).to(dtype)
            gate, up = both.double().chunk(2, dim=-1)
            hidden = (torch.nn.functional.silu(gate) * up).to(dtype)
            answer = in_integers(hidden, stored["w2_weight"][expert], stored["w2_weight_scale"][expert])
            expected[token] += answer[0] if on_input else weight.double() * answer[0]
    assert (result.shape, result.dtype) == ((TOKENS, HIDDEN), dtype)
    # An activation between two integers may become either: at most a step of a column or two.
    torch.testing.assert_close(result.cpu().double(), expected, rtol=0.02, atol=0.01 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("dtype", "bias", "message"),
    [(torch.float32, None, "not torch.float32"), (torch.bfloat16, torch.zeros(1), "with biases do not run")],
)
def test_what_does_not_run_is_refused(dtype: torch.dtype, bias: Any, message: str) -> None:
    method = SimpleNamespace(moe=SimpleNamespace(in_dtype=dtype))
    with pytest.raises(ValueError, match=message):
        _int8_experts.process_weights_after_loading(method, made(w13_bias=bias))
