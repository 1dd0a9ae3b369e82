"""What msModelSlim's description may say of a layer, and what is refused with a remedy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("device")
SHARDS = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
PREFIX = "model.layers.0.self_attn.qkv_proj"


def described(**kinds: str) -> Any:
    """A configuration in which the matrices of one attention layer have these types."""
    from ascend_patch.patches.quantization._modelslim import ModelSlimConfig

    types = {f"model.layers.0.self_attn.{name}.weight": kind for name, kind in kinds.items()}
    config = ModelSlimConfig.from_config({"model_quant_type": "W8A8", **types})
    config.packed_modules_mapping = SHARDS
    return config


def linear() -> Any:
    from vllm.model_executor.layers.linear import LinearBase

    return LinearBase.__new__(LinearBase)


@pytest.fixture(autouse=True)
def bfloat16() -> Any:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(usual)


@pytest.mark.parametrize(
    ("kind", "method"),
    [("W8A8", "Int8StaticMethod"), ("W8A8_DYNAMIC", "Int8DynamicMethod"), ("FLOAT", "UnquantizedLinearMethod")],
)
def test_a_layer_of_several_matrices_has_their_type(kind: str, method: str) -> None:
    config = described(q_proj=kind, k_proj=kind, v_proj=kind)
    assert type(config.get_quant_method(linear(), PREFIX)).__name__ == method


def test_names_follow_the_model() -> None:
    config = described(q_proj="W8A8")
    mapper = SimpleNamespace(apply_dict=lambda types: {f"language_model.{name}": kind for name, kind in types.items()})
    config.apply_vllm_mapper(mapper)
    assert config.type_of("language_model.model.layers.0.self_attn.q_proj") == "W8A8"


@pytest.mark.parametrize(
    ("kinds", "prefix", "message"),
    [
        ({"q_proj": "W8A8", "k_proj": "FLOAT", "v_proj": "W8A8"}, PREFIX, "k_proj FLOAT.*quantize them alike"),
        ({"q_proj": "W8A8"}, PREFIX, "k_proj None"),
        ({"o_proj": "W4A8_DYNAMIC"}, "model.layers.0.self_attn.o_proj", "W4A8_DYNAMIC.*FLOAT, W8A8, W8A8_DYNAMIC"),
        ({}, "model.layers.1.mlp.down_proj", "says nothing about model.layers.1.mlp.down_proj"),
    ],
)
def test_what_does_not_fit_is_said(kinds: dict[str, str], prefix: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        described(**kinds).get_quant_method(linear(), prefix)


def test_experts_and_others_are_left_to_vllm_unless_they_are_quantized() -> None:
    from ascend_patch.patches.quantization._modelslim import ModelSlimConfig

    prefix = "model.layers.0.mlp.experts"
    config = ModelSlimConfig({f"{prefix}.0.up_proj.weight": "FLOAT", "model.embed_tokens.weight": "FLOAT"})
    assert config.get_quant_method(torch.nn.Module(), prefix) is None
    assert config.get_quant_method(torch.nn.Module(), "model.embed_tokens") is None
    config = ModelSlimConfig({f"{prefix}.0.up_proj.weight": "W8A8_DYNAMIC", f"{prefix}.0.down_proj.weight": "FLOAT"})
    with pytest.raises(ValueError, match=r"experts is FLOAT, W8A8_DYNAMIC.*all of a layer as W8A8_DYNAMIC"):
        config.get_quant_method(torch.nn.Module(), prefix)


def test_parts_that_were_not_calibrated_together_are_refused() -> None:
    layer = SimpleNamespace(input_scale=torch.tensor([0.5, 0.5, 0.25]), input_offset=torch.zeros(3))
    method = described(q_proj="W8A8", k_proj="W8A8", v_proj="W8A8").get_quant_method(linear(), PREFIX)
    with pytest.raises(ValueError, match=r"input_scale \[0.5, 0.5, 0.25\]: calibrate them together"):
        method.process_weights_after_loading(layer)


def test_zero_points_of_weights_are_refused() -> None:
    config = described(o_proj="W8A8_DYNAMIC")
    method = config.get_quant_method(linear(), "model.layers.0.self_attn.o_proj")
    with pytest.raises(ValueError, match="zero points"):
        method.process_weights_after_loading(SimpleNamespace(weight_offset=torch.tensor([0.0, 1.0])))


def test_float32_is_refused() -> None:
    torch.set_default_dtype(torch.float32)
    with pytest.raises(ValueError, match=r"o_proj cannot run: .*start with --dtype bfloat16"):
        described(o_proj="W8A8").get_quant_method(linear(), "model.layers.0.self_attn.o_proj")
