"""Linear layers in half and bfloat16: their own implementation, against products in float64."""

from __future__ import annotations

from types import ModuleType

import pytest

# Rows on both sides of the tile height and of the switch between tiles and blocks; depths and widths that divide by
# nothing.
SHAPES = [(1, 16, 3), (2, 40, 7), (8, 576, 96), (9, 33, 100), (64, 128, 97), (65, 100, 193), (200, 48, 300)]


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("form", ["linear", "linear with bias", "matmul", "addmm"])
def test_product_is_rounded_once(
    torch_on_npu: ModuleType, rows: int, depth: int, columns: int, dtype: str, form: str
) -> None:
    torch = torch_on_npu
    torch.manual_seed(rows * depth + columns)
    kind = getattr(torch, dtype)
    x, weight, bias = (torch.randn(*size).to(kind) for size in ((rows, depth), (columns, depth), (columns,)))
    exact = x.double() @ weight.double().t()
    on_npu = x.npu(), weight.npu(), bias.npu()
    if form == "linear":
        got = torch.nn.functional.linear(on_npu[0], on_npu[1])
    elif form == "linear with bias":
        got, exact = torch.nn.functional.linear(*on_npu), exact + bias.double()
    elif form == "matmul":
        got = on_npu[0] @ on_npu[1].t()
    else:
        got, exact = torch.addmm(on_npu[2], on_npu[0], on_npu[1].t()), exact + bias.double()
    assert got.dtype == kind
    # Half a unit in the last place of the result, and what float32 loses over `depth` additions.
    tolerance = exact.abs() * torch.finfo(kind).eps / 2 + depth * 2e-6
    assert ((got.cpu().double() - exact).abs() <= tolerance).all()


def test_leading_dimensions_are_kept(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    x, weight = torch.randn(2, 3, 32).half(), torch.randn(5, 32).half()
    got = torch.nn.functional.linear(x.npu(), weight.npu())
    assert got.shape == (2, 3, 5)
    assert torch.allclose(got.cpu().double(), x.double() @ weight.double().t(), atol=2e-2)
