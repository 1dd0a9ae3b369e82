"""The table of kernels in the README covers every kernel, and its benchmark notices a wrong result."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ascend_patch.kernels import catalogue

from .conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        yield importlib.import_module("kernel_table")
    for name in ("kernel_table", "kernel_cases", "readme"):
        sys.modules.pop(name)


def test_every_kernel_has_a_case(benchmark: ModuleType) -> None:
    benchmark.kernel_cases.check(catalogue.kernels())


def test_a_kernel_without_a_case_and_a_case_without_a_kernel_are_errors(benchmark: ModuleType) -> None:
    kernels = dict(catalogue.kernels())
    with pytest.raises(ValueError, match="no case for brand_new"):
        benchmark.kernel_cases.check(kernels | {"brand_new": None})
    del kernels["zero_blocks"]
    with pytest.raises(ValueError, match="no more: zero_blocks"):
        benchmark.kernel_cases.check(kernels)


@pytest.mark.parametrize("file", ["README.md", "README.zh.md"])
def test_the_readme_has_a_row_for_every_entry(file: str) -> None:
    table = (ROOT / file).read_text(encoding="utf-8").partition("<!-- kernels -->")[2].partition("<!-- /kernels -->")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")][1:]
    found = ["_".join(word.strip() for word in row if word.strip() != "—") for row in rows]
    assert found == [entry for kernel in catalogue.kernels().values() for entry in kernel.entries]


@pytest.mark.parametrize(
    ("found", "expected", "words"),
    [
        (torch.tensor([1.0, -torch.inf]), torch.tensor([1.0, -torch.inf]), "0"),
        (torch.tensor([1.0, 2.5]), torch.tensor([1.25, 2.0]), "5.0e-01"),
        (torch.tensor([-torch.inf]), torch.tensor([3.0]), "inf"),
        (torch.tensor([torch.nan]), torch.tensor([3.0]), "inf"),
        (torch.tensor([1, 2, 3]), torch.tensor([1, 5, 9]), "2 differ"),
        (torch.tensor([True, False]), torch.tensor([True, False]), "0 differ"),
    ],
)
def test_errors_are_told(benchmark: ModuleType, found: torch.Tensor, expected: torch.Tensor, words: str) -> None:
    assert benchmark.difference([found], [expected]) == words


def test_results_are_what_is_returned_and_what_is_written(benchmark: ModuleType) -> None:
    one, two, three = torch.zeros(1), torch.ones(2), torch.ones(3)
    case = SimpleNamespace(written=(three,))
    assert benchmark.results(case, (one, two)) == [one, two, three]
    assert benchmark.results(case, one) == [one, three]
    assert benchmark.results(case, None) == [three]
