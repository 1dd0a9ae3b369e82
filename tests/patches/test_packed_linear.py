"""GPTQ's and AWQ's formats in single numbers; whole models are in tests/models/test_gptq_awq.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("device")
GPTQ = {"bits": 4, "group_size": 32, "sym": False, "desc_act": False}
AWQ = {"bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
ROWS, COLUMNS = 64, 16


def int32(number: int) -> torch.Tensor:
    return torch.tensor([[number]]).to(torch.int32).npu()


def test_where_awq_puts_eight_columns() -> None:
    from ascend_patch.patches.quantization._packed_linear import in_awq_order

    assert in_awq_order(int32(0x75316420)).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert in_awq_order(int32(0xFDB9ECA8)).tolist() == [[8, 9, 10, 11, 12, 13, 14, 15]]


@pytest.mark.parametrize(
    ("bits", "minus_one", "stored", "points"),
    [
        (4, False, 0x76543210, [0, 1, 2, 3, 4, 5, 6, 7]),
        (4, True, 0x76543210, [1, 2, 3, 4, 5, 6, 7, 8]),
        (4, True, 0x88888888 - 0x11111111, [8] * 8),
        # What the first one lacks it has borrowed from the second.
        (4, True, 0x88888880 - 0x11111111, [0, 8, 8, 8, 8, 8, 8, 8]),
        (4, True, 0x8F0F0F00 - 0x11111111, [0, 0, 15, 0, 15, 0, 15, 8]),
        (8, False, 0xFF028001, [1, 128, 2, 255]),
        (8, True, 0xFF008000 - 0x01010101, [0, 128, 0, 255]),
    ],
)
def test_zero_points_of_gptq(bits: int, minus_one: bool, stored: int, points: list[int]) -> None:
    method = gptq(bits=bits, checkpoint_format="gptq" if minus_one else "gptq_v2")
    assert method.zero_points(SimpleNamespace(qzeros=int32(stored))).tolist() == [points]


def layer_of(method: Any, *, rows: int = ROWS, all_rows: int = ROWS, parts: tuple[int, ...] = (COLUMNS,)) -> Any:
    layer = torch.nn.Module()
    method.create_weights(layer, rows, list(parts), all_rows, sum(parts), torch.float16, weight_loader=None)
    return layer


def configured(name: str, **changes: Any) -> Any:
    from ascend_patch.patches.quantization import _packed_configs

    usual = {"GPTQConfig": GPTQ, "AWQConfig": AWQ}[name]
    return getattr(_packed_configs, name)({**usual, **changes})


def gptq(**changes: Any) -> Any:
    config = configured("GPTQConfig", **changes)
    return config.linear_method("some.layer", config.scheme)


def test_rows_come_in_the_order_of_their_groups() -> None:
    """Whatever `desc_act` says: the checkpoint's own `g_idx` counts."""
    method = gptq()
    layer_of(method)
    groups = torch.tensor([0, 1] * 32)
    order = method._order(groups)
    assert order is not None and order.tolist() == [*range(0, 64, 2), *range(1, 64, 2)]
    assert method._order(torch.arange(64) // 32) is None
    assert method._order(None) is None


def test_groups_of_several_sizes_are_refused() -> None:
    method = gptq()
    layer_of(method)
    with pytest.raises(ValueError, match=r"some\.layer has a g_idx whose groups do not have 32 rows each"):
        method._order(torch.tensor([0] * 31 + [1] * 33))


def test_groups_in_an_order_are_refused_where_rows_are_split() -> None:
    remedy = "rows on several devices: use one device, or quantize with desc_act=False"
    with pytest.raises(ValueError, match=remedy):
        layer_of(gptq(desc_act=True), all_rows=2 * ROWS)
    method = gptq()
    layer_of(method, all_rows=2 * ROWS)
    with pytest.raises(ValueError, match=remedy):
        method._order(torch.tensor([0, 1, 2, 3] * 32))


def test_parts_of_one_matrix_have_one_order() -> None:
    method = gptq()
    layer = layer_of(method, parts=(COLUMNS, COLUMNS))
    assert method._groups(layer.g_idx) is None  # the checkpoint has none
    groups = torch.arange(ROWS, dtype=torch.int32) // 32
    layer.g_idx.weight_loader(layer.g_idx, groups)
    assert torch.equal(method._groups(layer.g_idx), groups.long())
    layer.g_idx.weight_loader(layer.g_idx, groups.flip(0), 1)
    with pytest.raises(ValueError, match="its parts have their groups in different orders"):
        method._groups(layer.g_idx)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ({"parts": (12,)}, "12 columns per device are no multiple of 8"),
        ({"parts": (4, 4)}, r"one number holds 8, which 64 x \[4, 4\] per device cut apart"),
        ({"rows": 48}, "a multiple of 32 that divides the 48 rows per device, not of 32"),
    ],
)
def test_layers_that_cannot_be_split_so_are_refused(layer: dict[str, Any], reason: str) -> None:
    config = configured("AWQConfig")
    method = config.linear_method("some.layer", config.scheme)
    with pytest.raises(ValueError, match=f"some.layer cannot run: .*{reason}"):
        layer_of(method, **layer)


def test_310p_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ascend_patch.npu.quantisation.soc_family", lambda: "310P")
    with pytest.raises(ValueError, match=r"some\.layer cannot run: .*not for 310P: take a model that is not quantized"):
        layer_of(gptq())


def test_each_layer_has_the_scheme_that_gptqmodel_gave_it() -> None:
    config = configured("GPTQConfig", dynamic={r"+:.*\.1\..*": {"bits": 8, "group_size": 64}, "-:.*gate": {}})
    assert config.scheme_of("model.layers.0.up") == (4, 32, True, False, True)
    assert config.scheme_of("model.layers.1.up") == (8, 64, True, False, True)
    assert config.is_quantized("model.layers.0.up") and not config.is_quantized("model.layers.0.gate")


def test_one_matrix_has_one_scheme() -> None:
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

    config = configured("GPTQConfig", dynamic={"+:.*k_proj": {"bits": 8}})
    config.packed_modules_mapping = {"qk": ["q_proj", "k_proj"], "gate_up": ["gate", "up"]}
    config.quantized = ["layer.q_proj", "layer.k_proj", "layer.up", "down"]
    linear = LinearBase.__new__(LinearBase)
    torch.nn.Module.__init__(linear)
    for name in ("layer.qk", "layer.gate_up"):
        with pytest.raises(
            ValueError, match=f"{name} is one matrix here, but the checkpoint has .*: quantize them alike"
        ):
            config.get_quant_method(linear, name)
    method = config.get_quant_method(linear, "language_model.layer.down")
    assert type(method).__name__ == "AscendGPTQLinearMethod"
    assert isinstance(config.get_quant_method(linear, "layer.o_proj"), UnquantizedLinearMethod)


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("GPTQConfig", {"modules_in_block_to_quantize": [["attn.q"], ["mlp.up"]]}),
        ("AWQConfig", {"modules_to_not_convert": ["mlp.gate"]}),
    ],
)
def test_lists_count_where_the_tensors_are_not_known(name: str, lists: dict[str, Any]) -> None:
    config = configured(name, **lists)
    assert config.is_quantized("layers.0.attn.q") and not config.is_quantized("layers.0.mlp.gate")
