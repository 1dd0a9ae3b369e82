"""Some sixty aten operators on the NPU against the same operators on the CPU, with random shapes and layouts."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

UNARY = [
    "abs",
    "neg",
    "exp",
    "log1p",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "tanh",
    "sigmoid",
    "relu",
    "erf",
    "floor",
    "ceil",
    "round",
    "reciprocal",
    "sign",
    "square",
    "isnan",
    "logical_not",
    "silu",
    "gelu",
    "softplus",
]
BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "maximum",
    "minimum",
    "pow",
    "eq",
    "ne",
    "lt",
    "ge",
    "logical_and",
    "fmod",
    "atan2",
]
REDUCTIONS = [
    "sum",
    "mean",
    "amax",
    "amin",
    "argmax",
    "argmin",
    "prod",
    "std",
    "var",
    "logsumexp",
    "cumsum",
    "softmax",
    "log_softmax",
    "any",
    "all",
    "sort",
    "max",
    "median",
]


def tensor(torch: Any, generator: Any, dtype: Any) -> Any:
    """A positive tensor with a random shape and, half of the time, transposed or sliced."""
    shape = [random.randint(1, 7) for _ in range(random.randint(2, 4))]
    made = torch.rand(shape, generator=generator) + 0.25
    layout = random.randrange(3)
    made = made.transpose(0, -1) if layout == 1 else made.repeat_interleave(2, -1)[..., ::2] if layout == 2 else made
    return made.to(dtype)


def same(torch: Any, on_npu: Any, on_cpu: Any) -> None:
    if isinstance(on_cpu, (tuple, list)):
        for a, b in zip(on_npu, on_cpu, strict=True):
            same(torch, a, b)
        return
    assert on_npu.device.type == "npu"
    assert on_npu.dtype == on_cpu.dtype and on_npu.shape == on_cpu.shape and on_npu.stride() == on_cpu.stride()
    # Vectorised kernels may differ in the last bit with the alignment of the memory.
    tolerance = {torch.float32: 4e-7, torch.bfloat16: 2**-7}.get(on_cpu.dtype, 0.0)
    torch.testing.assert_close(on_npu.cpu(), on_cpu, rtol=tolerance, atol=tolerance / 4, equal_nan=True)


def find(torch: Any, name: str) -> Callable[..., Any]:
    return getattr(torch, name, None) or getattr(torch.nn.functional, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_elementwise(torch_on_npu: ModuleType, dtype: str) -> None:
    torch = torch_on_npu
    random.seed(1)
    generator = torch.Generator().manual_seed(1)
    for name in UNARY:
        a = tensor(torch, generator, getattr(torch, dtype))
        same(torch, find(torch, name)(a.npu()), find(torch, name)(a))
    for name in BINARY:
        a = tensor(torch, generator, getattr(torch, dtype))
        b = torch.rand(a.shape[-1], generator=generator).to(a.dtype) + 0.5
        same(torch, find(torch, name)(a.npu(), b.npu()), find(torch, name)(a, b))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reductions(torch_on_npu: ModuleType, dtype: str) -> None:
    torch = torch_on_npu
    random.seed(2)
    generator = torch.Generator().manual_seed(2)
    for name in REDUCTIONS:
        a = tensor(torch, generator, getattr(torch, dtype))
        dim = random.randrange(a.dim())
        same(torch, find(torch, name)(a.npu(), dim=dim), find(torch, name)(a, dim=dim))


def test_indexing_and_shapes(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    random.seed(3)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        a = tensor(torch, generator, torch.float32)
        index = torch.randint(0, a.shape[0], (4,), generator=generator)
        cases: list[Callable[[Any, Any], Any]] = [
            lambda x, i: x.index_select(0, i),
            lambda x, i: x[i],
            lambda x, i: torch.nn.functional.embedding(i, x.flatten(1)),
            lambda x, i: x.flip(0),
            lambda x, i: x.roll(1, 0),
            lambda x, i: x.repeat(2, *[1] * (x.dim() - 1)),
            lambda x, i: x.tril(),
            lambda x, i: x.masked_fill(x > 0.7, -1.0),
            lambda x, i: torch.where(x > 0.5, x, -x),
            lambda x, i: x[x > 0.6],
            lambda x, i: (x > 0.5).nonzero(),
            lambda x, i: x.topk(1, dim=0),
            lambda x, i: torch.nn.functional.one_hot(i, 8),
            lambda x, i: torch.nn.functional.pad(x, (1, 2)),
            lambda x, i: x.index_add(0, i, x[i]),
            lambda x, i: torch.searchsorted(x.flatten().sort().values, x.flatten()),
            lambda x, i: i.bincount(minlength=8),
            lambda x, i: x.gather(0, torch.zeros_like(x, dtype=torch.int64)),
            lambda x, i: torch.cat([x, x], -1),
            lambda x, i: x.scatter(0, torch.zeros_like(x[:1], dtype=torch.int64), x[:1]),
            lambda x, i: torch.nn.functional.layer_norm(x, x.shape[-1:]),
            lambda x, i: x.unique(),
            lambda x, i: x.to(torch.int32),
        ]
        for case in cases:
            same(torch, case(a.npu(), index.npu()), case(a, index))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2**-8), ("float16", 2**-11)])
def test_products_accumulate_in_float32(torch_on_npu: ModuleType, dtype: str, tolerance: float) -> None:
    """Against float64: one rounding of the result, whatever the depth."""
    torch = torch_on_npu
    generator = torch.Generator().manual_seed(4)
    for rows, depth, columns in [(1, 64, 48), (3, 577, 131), (8, 1536, 64), (70, 96, 32)]:
        x = torch.randn(rows, depth, generator=generator).to(getattr(torch, dtype))
        w = torch.randn(columns, depth, generator=generator).to(getattr(torch, dtype))
        exact = x.double() @ w.double().t()
        bound = (x.double().abs() @ w.double().abs().t()) * depth * 2**-24 + exact.abs() * tolerance + 1e-6
        for result in (
            torch.nn.functional.linear(x.npu(), w.npu()),
            x.npu() @ w.npu().t(),
            torch.mm(x.npu(), w.t().npu()),
            (x.npu()[None] @ w.npu().t())[0],
        ):
            assert result.dtype == x.dtype and result.shape == (rows, columns)
            assert ((result.cpu().double() - exact).abs() <= bound).all()
        bias = torch.randn(columns, generator=generator).to(x.dtype)
        biased = torch.nn.functional.linear(x.npu(), w.npu(), bias.npu()).cpu().double()
        assert ((biased - exact - bias.double()).abs() <= bound + (exact + bias.double()).abs() * tolerance).all()
