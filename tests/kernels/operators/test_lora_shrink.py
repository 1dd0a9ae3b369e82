"""lora_shrink on the simulator and on hostcann, against the reference and products in float64 token by token."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import loading
from ascend_patch.kernels import lora_shrink as package

from .conftest import Simulate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def case(tokens: int, rank: int, hidden: int, slices: int, ordered: bool, dtype: torch.dtype, seed: int) -> list[Any]:
    """Three adapters, and tokens without one; the result holds NaN, since what it held must not count."""
    generator = torch.Generator().manual_seed(seed)
    mapping = torch.randint(-1, 3, (tokens,), generator=generator, dtype=torch.int32)
    order = torch.sort(mapping, stable=True).indices.int() if ordered else None
    return [
        torch.randn(tokens, hidden, generator=generator).to(dtype),
        [torch.randn(3, 1, rank, hidden, generator=generator).to(dtype) for _ in range(slices)],
        torch.full((slices, tokens, rank), torch.nan),
        mapping,
        order,
        0.5,
    ]


def verify(result: torch.Tensor, inputs: Any, weights: Any, mapping: Any, scale: float) -> None:
    """Within rounding of float sums: a few units in the last place of the sum of magnitudes."""
    for place, weight in enumerate(weights):
        for token, adapter in enumerate(mapping.tolist()):
            row = result[place, token].double()
            if adapter < 0:
                assert torch.equal(row, torch.zeros_like(row))
                continue
            matrix, column = weight.double()[adapter].view(-1, inputs.shape[1]), inputs[token].double()
            error = (row - scale * (matrix @ column)).abs()
            assert (error <= 1e-6 * scale * (matrix.abs() @ column.abs()) + 1e-30).all()


cases = st.builds(
    case,
    st.integers(0, 20),
    st.sampled_from([1, 3, 8, 16, 64, 65, 130]),
    st.one_of(st.integers(1, 200), st.sampled_from([2047, 2048, 2049, 4100])),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.integers(0, 999),
)


@settings(max_examples=25, deadline=None)
@given(cases, st.sampled_from([1, 3, 40]))
@example(case(1, 512, 4096, 1, False, torch.bfloat16, 0), 40)
def test_products_are_those_of_each_tokens_adapter(simulate: Simulate, arguments: list[Any], cores: int) -> None:
    inputs, weights, output, mapping, order, scale = arguments
    on_reference = output.clone()
    simulate(package, inputs, weights, output, mapping, order, scale, cores=cores)
    package.reference(inputs, weights, on_reference, mapping, order, scale)
    for result in (output, on_reference):
        verify(result, inputs, weights, mapping, scale)


@settings(max_examples=12, deadline=None)
@given(cases)
def test_the_operator_launches_it_on_the_device(npu: ModuleType, arguments: list[Any]) -> None:
    assert loading.unavailable(package.KERNEL) is None
    inputs, weights, output, mapping, order, scale = arguments
    result = output.npu()
    on_device = [weight.npu() for weight in weights]
    on_device_order = None if order is None else order.npu()
    torch.ops.ascend_patch.lora_shrink(inputs.npu(), on_device, result, mapping.npu(), on_device_order, scale)
    verify(result.cpu(), inputs, weights, mapping, scale)


def test_weights_of_three_dimensions_and_longer_mappings_are_taken(simulate: Simulate) -> None:
    inputs, weights, output, mapping, order, scale = case(5, 8, 33, 2, True, torch.float16, 3)
    longer = torch.cat([mapping, torch.full((4,), 99, dtype=torch.int32)])
    simulate(package, inputs, [weight.squeeze(1) for weight in weights], output, longer, order, scale)
    verify(output, inputs, weights, mapping, scale)


def test_torch_accepts_the_operator() -> None:
    arguments = case(4, 8, 32, 2, True, torch.float32, 0)
    arguments[2] = torch.zeros(2, 4, 8)
    torch.library.opcheck(package.lora_shrink, tuple(arguments))


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (0, torch.zeros(4, 32, dtype=torch.int32), TypeError, r"inputs is torch\.int32"),
        (0, torch.zeros(32, 4).T, ValueError, "inputs must be contiguous"),
        (1, [torch.zeros(3, 1, 8, 32)], ValueError, r"output is \[2, 4, 8\], it must be \[1, 4, rank\]"),
        (1, [torch.zeros(3, 1, 8, 31)] * 2, ValueError, r"slice 0 is \[3, 1, 8, 31\]"),
        (1, [torch.zeros(3, 1, 8, 32).half()] * 2, TypeError, r"slice 0 is torch\.float16, the inputs"),
        (2, torch.zeros(2, 4, 8).half(), TypeError, r"output is torch\.float16"),
        (3, torch.zeros(3, dtype=torch.int32), ValueError, "token_lora_mapping has 3 entries"),
        (3, torch.zeros(4, dtype=torch.int64), TypeError, r"token_lora_mapping is torch\.int64"),
        (4, torch.zeros(3, dtype=torch.int32), ValueError, "token_order has 3 entries"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, value: Any, error: type[Exception], words: str) -> None:
    arguments = case(4, 8, 32, 2, True, torch.float32, 0)
    arguments[place] = value
    with pytest.raises(error, match=words):
        package.lora_shrink(*arguments)
