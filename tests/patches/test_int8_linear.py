"""One quantized linear layer against exact integers: closer than a whole model allows, and what no model here has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ascend_patch import npu
from ascend_patch.patches.quantization._int8_linear import AscendInt8LinearKernel

pytestmark = pytest.mark.usefixtures("device")
WIDTHS, INNER = [48, 16, 16], 96  # queries, keys and values in one matrix
HALVES = [pytest.param(torch.float16, id="half"), pytest.param(torch.bfloat16, id="brain")]


@pytest.fixture(autouse=True, params=["nz", "nd"])
def weight_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The format that the user chose; nz is the default."""
    chosen: str = request.param
    monkeypatch.setenv("VLLM_ASCEND_PATCH_INTEGER_FORMAT", "" if chosen == "nz" else chosen)
    return chosen


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(
    dtype: torch.dtype, *, channelwise: bool = True, static: bool = False, shifted: bool = False
) -> tuple[AscendInt8LinearKernel, SimpleNamespace, torch.Tensor]:
    """A kernel, a layer that it has prepared, and the layer's weight in float64."""
    scales = random(sum(WIDTHS) if channelwise else len(WIDTHS), seed=1).abs() / 500 + 1e-4
    weight = torch.randint(-128, 128, (sum(WIDTHS), INNER), generator=torch.Generator().manual_seed(2)).to(torch.int8)
    layer = SimpleNamespace(
        weight=torch.nn.Parameter(weight.npu(), requires_grad=False),
        weight_scale=torch.nn.Parameter((scales.unsqueeze(1) if channelwise else scales).npu(), requires_grad=False),
        logical_widths=WIDTHS,
        input_scale=torch.tensor([0.02, 0.03, 0.01]).npu() if static else None,
        input_zero_point=torch.tensor([10, -5, 0], dtype=torch.int8).npu() if shifted else None,
    )
    config = SimpleNamespace(is_channelwise=channelwise, is_static_input_scheme=static, input_symmetric=not shifted)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert AscendInt8LinearKernel.is_supported() == (True, None)
        assert AscendInt8LinearKernel.can_implement(config) == (True, None)
        kernel = AscendInt8LinearKernel(config, layer_param_names=["weight", "weight_scale"])
    finally:
        torch.set_default_dtype(usual)
    kernel.process_weights_after_loading(layer)
    assert npu.is_nz(layer.weight.data) == (os.environ["VLLM_ASCEND_PATCH_INTEGER_FORMAT"] == "")
    per_row = scales if channelwise else scales.repeat_interleave(torch.tensor(WIDTHS))
    return kernel, layer, weight.double() * per_row.double().unsqueeze(1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(1, INNER), (5, INNER), (2, 3, INNER)])
@pytest.mark.parametrize("channelwise", [True, False])
def test_a_step_for_each_token(channelwise: bool, shape: tuple[int, ...], biased: bool, dtype: torch.dtype) -> None:
    kernel, layer, weight = made(dtype, channelwise=channelwise)
    x = random(*shape, seed=3).to(dtype)
    bias = random(sum(WIDTHS), seed=4).to(dtype) if biased else None
    result = kernel.apply_weights(layer, x.npu(), bias.npu() if bias is not None else None)
    # The operator's own steps and integers: whether those are right, its own tests say.
    integers, steps = torch.ops.npu.npu_dynamic_quant(x.npu())
    expected = (integers.cpu().double() @ weight.t()) * steps.cpu().double().unsqueeze(-1)
    expected = expected if bias is None else expected + bias.double()
    assert (result.shape, result.dtype) == ((*shape[:-1], sum(WIDTHS)), dtype)
    torch.testing.assert_close(result.cpu().double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("channelwise", [True, False])
def test_a_step_that_was_known(channelwise: bool, shifted: bool, biased: bool, dtype: torch.dtype) -> None:
    """Activations that are whole steps come through exactly; the zero point is gone from the result."""
    kernel, layer, weight = made(dtype, channelwise=channelwise, static=True, shifted=shifted)
    # Of the three ranges the widest counts: with zero points from 0.03 * (-128 + 5) to 0.03 * (127 + 5).
    step = 0.03
    whole = torch.arange(INNER).remainder(60).sub(40).double().expand(4, INNER)
    x = (whole * step).to(dtype)
    bias = random(sum(WIDTHS), seed=4).to(dtype) if biased else None
    result = kernel.apply_weights(layer, x.npu(), bias.npu() if bias is not None else None)
    expected = (whole * step) @ weight.t() + (0 if bias is None else bias.double())
    # The step is a number of the activations' type.
    torch.testing.assert_close(result.cpu().double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=2e-2)


def test_the_same_on_310p(weight_format: str, request: pytest.FixtureRequest) -> None:
    """Its one product of int8 takes tiles, gives float16, and adds integers only."""
    if weight_format == "nd":
        pytest.skip("310P has no product for it")
    names = "(test_a_step_for_each_token or test_a_step_that_was_known) and half and nz"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(request.path), "-k", names]
    done = subprocess.run(command, env={**os.environ, "HOSTCANN_SOC": "Ascend310P3"}, capture_output=True, text=True)
    assert done.returncode == 0 and re.search(r"^20 passed, \d+ deselected", done.stdout, re.M), done.stdout[-3000:]


@pytest.mark.parametrize("shape", [(INNER, 1), (1, INNER), (INNER, INNER)])
def test_310p_refuses_what_its_product_cannot_take(
    shape: tuple[int, int], weight_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ascend_patch.patches.quantization._weight_format import linear_weight

    monkeypatch.setattr("ascend_patch.npu.quantisation.soc_family", lambda: "310P")
    weight = torch.zeros(shape, dtype=torch.int8).npu()
    if weight_format == "nz" and min(shape) > 1:
        assert npu.is_nz(linear_weight(weight).data)
        return
    with pytest.raises(ValueError, match="on 310P, CANN multiplies int8 only by weights in FRACTAL_NZ"):
        linear_weight(weight)


def test_a_format_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ASCEND_PATCH_INTEGER_FORMAT", "NZ!")
    with pytest.raises(ValueError, match=r"INTEGER_FORMAT=NZ! is none of nz, nd: choose one or unset it"):
        made(torch.bfloat16)


def test_no_tokens_are_no_work() -> None:
    kernel, layer, _ = made(torch.bfloat16)
    result = kernel.apply_weights(layer, torch.empty(0, INNER, dtype=torch.bfloat16).npu())
    assert result.shape == (0, sum(WIDTHS))


def test_what_the_operators_cannot_do_is_said() -> None:
    config = SimpleNamespace(is_channelwise=True, is_static_input_scheme=False, input_symmetric=False)
    possible, reason = AscendInt8LinearKernel.can_implement(config)
    assert not possible and reason is not None and "quantize them symmetrically" in reason
