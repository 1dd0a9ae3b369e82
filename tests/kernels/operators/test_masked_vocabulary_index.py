"""masked_vocabulary_index on the simulator and on hostcann, against the reference and the table's layout."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import loading
from ascend_patch.kernels import masked_vocabulary_index as package

from .conftest import Simulate

DTYPES = (torch.int32, torch.int64)
Shard = tuple[int, int, int, int, int]


def shard(vocab: int, added: int, padding: int, ranks: int, rank: int) -> Shard:
    """What one rank owns of `vocab` ids, each rank's part padded by `padding` rows, and of `added` ids behind them."""
    part, added_part = -(-vocab // ranks), -(-added // ranks)
    start, end = min(rank * part, vocab), min((rank + 1) * part, vocab)
    added_start, added_end = min(rank * added_part, added), min((rank + 1) * added_part, added)
    return start, end, padding, vocab + added_start, vocab + added_end


def by_table(ids: list[int], owned: Shard) -> tuple[list[int], list[bool]]:
    """The table row by row: which id it belongs to, and the ids looked up in it."""
    org_start, org_end, padding, added_start, added_end = owned
    table: list[int | None] = [*range(org_start, org_end), *[None] * padding, *range(added_start, added_end)]
    rows = {token: row for row, token in enumerate(table) if token is not None}
    return [rows.get(token, 0) for token in ids], [token not in rows for token in ids]


shards = st.builds(
    lambda vocab, added, padding, ranks, rank: shard(vocab, added, padding, ranks, rank % ranks),
    st.integers(1, 3000),
    st.one_of(st.just(0), st.integers(1, 60)),
    st.integers(0, 64),
    st.integers(1, 8),
    st.integers(0, 7),
)
counts = st.one_of(st.integers(0, 200), st.sampled_from([2047, 2048, 2049, 4096, 6200]))


@settings(max_examples=60, deadline=None)
@given(shards, counts, st.sampled_from(DTYPES), st.integers(0, 99))
@example((0, 10, 0, 10, 10), 1, torch.int32, 0)
def test_rows_are_those_of_the_table(
    simulate: Simulate, owned: Shard, count: int, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-2, 3100, (count,), generator=generator, dtype=dtype)
    rows, foreign = simulate(package, ids, *owned)
    expected_rows, expected_foreign = by_table(ids.tolist(), owned)
    assert rows.tolist() == expected_rows and foreign.tolist() == expected_foreign
    on_reference = package.reference(ids, *owned)
    assert torch.equal(on_reference[0], rows) and torch.equal(on_reference[1], foreign)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ids_at_the_ends_of_their_type_belong_to_nobody(simulate: Simulate, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    ids = torch.tensor([limits.min, limits.min + 1, -1, 0, limits.max - 1, limits.max], dtype=dtype)
    owned = (0, 2**31 - 1, 0, 2**31 - 1, 2**31 - 1)
    rows, foreign = simulate(package, ids, *owned)
    inside = dtype == torch.int32
    assert foreign.tolist() == [True, True, True, False, not inside, True]
    assert rows.tolist() == [0, 0, 0, 0, limits.max - 1 if inside else 0, 0]


def vllm_function() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """The installed vLLM's function from its source, without its decorator: importing it starts a platform."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    path = Path(found.origin).parent / "model_executor/layers/vocab_parallel_embedding.py"
    for statement in ast.parse(path.read_text("utf-8")).body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "get_masked_input_and_mask":
            statement.decorator_list = []
            names: dict[str, Any] = {"torch": torch}
            exec(compile(ast.Module([statement], []), str(path), "exec"), names)
            function: Callable[..., tuple[torch.Tensor, torch.Tensor]] = names[statement.name]
            return function
    raise AssertionError(f"{path} has no get_masked_input_and_mask")


def test_it_is_what_vllm_computes(simulate: Simulate) -> None:
    function = vllm_function()
    ids = torch.arange(-1, 1100)
    for rank in range(4):
        owned = shard(1010, 16, 14, 4, rank)
        expected_rows, expected_foreign = function(ids, *owned)
        for rows, foreign in (package.reference(ids, *owned), simulate(package, ids, *owned)):
            assert torch.equal(rows, expected_rows) and torch.equal(foreign, expected_foreign)


@settings(max_examples=15, deadline=None)
@given(shards, counts, st.sampled_from(DTYPES))
def test_the_operator_launches_it_on_the_device(npu: ModuleType, owned: Shard, count: int, dtype: torch.dtype) -> None:
    assert loading.unavailable(package.KERNEL) is None
    ids = torch.randint(0, 3100, (count,), dtype=dtype)
    rows, foreign = torch.ops.ascend_patch.masked_vocabulary_index(ids.npu(), *owned)
    expected_rows, expected_foreign = by_table(ids.tolist(), owned)
    assert rows.cpu().tolist() == expected_rows and foreign.cpu().tolist() == expected_foreign


def test_ids_of_two_dimensions_keep_their_shape(npu: ModuleType) -> None:
    rows, foreign = package.masked_vocabulary_index(torch.arange(6).view(2, 3).npu(), 2, 5, 0, 5, 5)
    assert rows.cpu().tolist() == [[0, 0, 0], [1, 2, 0]]
    assert foreign.cpu().tolist() == [[True, True, False], [False, False, True]]


def test_the_fake_gives_shapes_and_dtypes() -> None:
    torch.library.opcheck(package.masked_vocabulary_index, (torch.arange(5, dtype=torch.int32), 0, 3, 0, 3, 3))


@pytest.mark.parametrize(
    ("ids", "owned", "error", "words"),
    [
        (torch.zeros(2), (0, 1, 0, 1, 1), TypeError, "ids is torch.float32"),
        (torch.zeros(4, dtype=torch.int32)[::2], (0, 1, 0, 1, 1), ValueError, "contiguous"),
        (torch.zeros(2, dtype=torch.int32), (3, 1, 0, 5, 5), ValueError, r"original vocabulary is \[3, 1\)"),
        (torch.zeros(2, dtype=torch.int32), (0, 1, 0, 5, 2**31), ValueError, "added vocabulary"),
        (torch.zeros(2, dtype=torch.int32), (0, 1, -1, 5, 5), ValueError, "padding"),
        (torch.zeros(2, dtype=torch.int32), (0, 7, 0, 5, 8), ValueError, "overlap"),
    ],
)
def test_what_it_cannot_do_is_refused(ids: torch.Tensor, owned: Shard, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        package.masked_vocabulary_index(ids, *owned)
