"""lora_expand on the simulator and on hostcann, against the reference and products in float64 token by token."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import loading
from ascend_patch.kernels import lora_expand as package

from .conftest import Simulate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def case(
    tokens: int,
    rank: int,
    widths: list[int],
    offset: int,
    ordered: bool,
    narrow: bool,
    add: bool,
    dtype: torch.dtype,
    seed: int,
) -> list[Any]:
    """Three adapters, and tokens without one; the output has columns before and behind the slices."""
    generator = torch.Generator().manual_seed(seed)
    mapping = torch.randint(-1, 3, (tokens,), generator=generator, dtype=torch.int32)
    order = torch.sort(mapping, stable=True).indices.int() if ordered else None
    return [
        torch.randn(len(widths), tokens, rank, generator=generator).to(dtype if narrow else torch.float32),
        [torch.randn(3, 1, width, rank, generator=generator).to(dtype) for width in widths],
        torch.randn(tokens, offset + sum(widths) + 3, generator=generator).to(dtype),
        mapping,
        order,
        offset,
        add,
    ]


def verify(result: torch.Tensor, arguments: list[Any]) -> None:
    """Within one rounding to the output's dtype and that of float sums; other columns and rows are as they were."""
    inputs, weights, before, mapping, _, offset, add = arguments
    wanted, slack = before.double(), torch.zeros(before.shape, dtype=torch.float64)
    for values, weight in zip(inputs.double(), weights, strict=True):
        columns = slice(offset, offset + weight.shape[2])
        for token, adapter in enumerate(mapping.tolist()):
            if adapter < 0:
                continue
            matrix = weight[adapter, 0].double()
            old = before[token, columns].double() if add else torch.zeros(weight.shape[2], dtype=torch.float64)
            wanted[token, columns] = old + matrix @ values[token]
            slack[token, columns] = 1e-6 * (matrix.abs() @ values[token].abs() + old.abs())
        offset += weight.shape[2]
    touched = slack > 0
    assert torch.equal(result.double()[~touched], wanted[~touched])
    rounding = torch.finfo(before.dtype).eps / 2 * wanted.abs()
    assert ((result.double() - wanted).abs() <= slack * 1.01 + rounding * 1.01)[touched].all()


RANKS = [1, 3, 8, 16, 32, 64, 128, 256, 320, 512]
cases = st.builds(
    case,
    st.integers(0, 20),
    st.sampled_from(RANKS),
    st.lists(st.one_of(st.integers(1, 140), st.sampled_from([1024, 1025])), min_size=1, max_size=3),
    st.sampled_from([0, 1, 7]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.integers(0, 999),
)


@settings(max_examples=25, deadline=None)
@given(cases, st.sampled_from([1, 3, 40]))
@example(case(1, 16, [4096, 1024, 1024], 0, False, False, True, torch.bfloat16, 0), 40)
def test_products_are_added_to_each_slices_columns(simulate: Simulate, arguments: list[Any], cores: int) -> None:
    inputs, weights, output, *rest = arguments
    results = output.clone(), output.clone()
    simulate(package, inputs, weights, results[0], *rest, cores=cores)
    package.reference(inputs, weights, results[1], *rest)
    for result in results:
        verify(result, arguments)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_rank_that_vllm_knows_is_right(simulate: Simulate, rank: int, dtype: torch.dtype) -> None:
    arguments = case(3, rank, [70], 1, True, False, True, dtype, rank)
    result = arguments[2].clone()
    simulate(package, *arguments[:2], result, *arguments[3:])
    verify(result, arguments)


@settings(max_examples=12, deadline=None)
@given(cases)
def test_the_operator_launches_it_on_the_device(npu: ModuleType, arguments: list[Any]) -> None:
    assert loading.unavailable(package.KERNEL) is None
    inputs, weights, output, mapping, order, *rest = arguments
    result = output.npu()
    on_device = [weight.npu() for weight in weights]
    on_device_order = None if order is None else order.npu()
    torch.ops.ascend_patch.lora_expand(inputs.npu(), on_device, result, mapping.npu(), on_device_order, *rest)
    verify(result.cpu(), arguments)


def test_torch_accepts_the_operator() -> None:
    torch.library.opcheck(package.lora_expand, tuple(case(4, 8, [5, 6], 1, True, False, True, torch.float32, 0)))


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (0, torch.zeros(2, 4, 8).half(), TypeError, r"inputs is torch\.float16"),
        (0, torch.zeros(1, 4, 8), ValueError, "inputs of 1 slices and 4 tokens, 2 weights"),
        (0, torch.zeros(2, 4, 513), ValueError, "the rank is 513, it must be 1 to 512"),
        (1, [torch.zeros(3, 1, 5, 7)] * 2, ValueError, r"slice 0 is \[3, 1, 5, 7\]"),
        (1, [torch.zeros(3, 1, 5, 8).half()] * 2, TypeError, r"slice 0 is torch\.float16, the output"),
        (2, torch.zeros(5, 15), ValueError, "5 rows of output"),
        (2, torch.zeros(4, 11), ValueError, r"the slices are columns \[1, 12\) of an output of 11"),
        (3, torch.zeros(3, dtype=torch.int32), ValueError, "token_lora_mapping has 3 entries"),
        (4, torch.zeros(4, dtype=torch.int64), TypeError, r"token_order is torch\.int64"),
        (5, -1, ValueError, r"columns \[-1, 10\)"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, value: Any, error: type[Exception], words: str) -> None:
    arguments = case(4, 8, [5, 6], 1, True, False, True, torch.float32, 0)
    arguments[place] = value
    with pytest.raises(error, match=words):
        package.lora_expand(*arguments)
