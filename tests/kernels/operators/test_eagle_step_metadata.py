"""eagle_step_metadata on the simulator and on hostcann, against the reference and a loop over requests."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import eagle_step_metadata as package
from ascend_patch.kernels import loading

from .conftest import Simulate

UNTOUCHED = -77


def case(requests: int, padding: int, block_size: int, columns: int, max_length: int, seed: int) -> list[Any]:
    """Requests at all places up to the maximum length, a block table whose rows are apart, results of their own."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randint(0, max_length, (requests,), generator=generator)
    table = torch.randint(0, 2**20, (requests, columns + 3), generator=generator, dtype=torch.int32)[:, :columns]
    return [
        positions,
        table,
        (positions + 1).int(),
        block_size,
        max_length,
        torch.full((requests,), UNTOUCHED),
        torch.full((requests + padding,), UNTOUCHED),
    ]


def by_request(positions: Any, table: Any, lengths: Any, block_size: int, max_length: int) -> tuple[Any, Any, Any]:
    new_positions, new_lengths, slots = [], [], []
    for position, row, length in zip(positions.tolist(), table.tolist(), lengths.tolist(), strict=True):
        if position + 1 >= max_length:
            new_positions.append(0)
            new_lengths.append(1)
            slots.append(-1)
        else:
            block, offset = divmod(position + 1, block_size)
            new_positions.append(position + 1)
            new_lengths.append(min(length + 1, max_length))
            slots.append(row[min(block, len(row) - 1)] * block_size + offset)
    return new_positions, new_lengths, slots


cases = st.builds(
    case,
    st.one_of(st.integers(0, 12), st.sampled_from([31, 32, 33, 97, 300])),
    st.sampled_from([0, 1, 5, 40]),
    st.sampled_from([1, 16, 128, 784]),
    st.integers(1, 9),
    st.one_of(st.integers(1, 40), st.sampled_from([1024, 131_072])),
    st.integers(0, 999),
)


def verify(results: list[Any], expected: tuple[Any, Any, Any]) -> None:
    new_positions, new_lengths, slots = expected
    assert results[5].tolist() == new_positions
    assert results[2].tolist() == new_lengths
    assert results[6].tolist() == slots + [-1] * (len(results[6]) - len(slots))


@settings(max_examples=60, deadline=None)
@given(cases)
def test_every_request_moves_one_token_ahead(simulate: Simulate, arguments: list[Any]) -> None:
    expected = by_request(*arguments[:5])
    on_reference = [value.clone() if isinstance(value, torch.Tensor) else value for value in arguments]
    simulate(package, *arguments)
    package.reference(*on_reference)
    verify(arguments, expected)
    verify(on_reference, expected)


@settings(max_examples=20, deadline=None)
@given(cases)
def test_positions_may_be_updated_in_place(simulate: Simulate, arguments: list[Any]) -> None:
    expected = by_request(*arguments[:5])
    for run in (lambda values: simulate(package, *values), lambda values: package.reference(*values)):
        values = [value.clone() if isinstance(value, torch.Tensor) else value for value in arguments]
        values[5] = values[0]
        run(values)
        verify(values, expected)


@pytest.mark.parametrize("cores", [1, 40])
def test_any_number_of_cores_does_the_same(simulate: Simulate, cores: int) -> None:
    arguments = case(1000, 24, 128, 5, 600, 3)
    expected = by_request(*arguments[:5])
    simulate(package, *arguments, cores=cores)
    verify(arguments, expected)


@settings(max_examples=15, deadline=None)
@given(cases)
def test_the_operator_launches_it_on_the_device(npu: ModuleType, arguments: list[Any]) -> None:
    assert loading.unavailable(package.KERNEL) is None
    expected = by_request(*arguments[:5])
    on_device = [value.npu() if isinstance(value, torch.Tensor) else value for value in arguments]
    torch.ops.ascend_patch.eagle_step_metadata(*on_device)
    verify([value.cpu() if isinstance(value, torch.Tensor) else value for value in on_device], expected)


def test_torch_accepts_the_operator() -> None:
    torch.library.opcheck(package.eagle_step_metadata, tuple(case(4, 2, 16, 4, 60, 0)))


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (0, torch.zeros(3, dtype=torch.int32), TypeError, "positions is torch.int32"),
        (1, torch.zeros(2, 4, dtype=torch.int32), ValueError, "block_table has 2 entries"),
        (1, torch.zeros(3, 0, dtype=torch.int32), ValueError, "no columns"),
        (2, torch.zeros(3), TypeError, "seq_lens is torch.float32"),
        (3, 0, ValueError, "block_size is 0"),
        (4, 2**31, ValueError, "max_model_len is 2147483648"),
        (5, torch.zeros(2, dtype=torch.int64), ValueError, "out_positions has 2 entries"),
        (6, torch.zeros(2, dtype=torch.int64), ValueError, "out_slot_mapping has 2 entries"),
    ],
)
def test_what_it_cannot_do_is_refused(place: int, value: Any, error: type[Exception], words: str) -> None:
    arguments = case(3, 0, 16, 4, 60, 0)
    arguments[place] = value
    with pytest.raises(error, match=words):
        package.eagle_step_metadata(*arguments)
