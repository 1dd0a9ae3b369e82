"""copy_blocks and copy_memory on the simulator and on hostcann, against the references and Python's own slices."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ascend_patch.kernels import copy_blocks as package
from ascend_patch.kernels import loading

from .conftest import Simulate

MEMORY = SimpleNamespace(launch=package.launch_memory)
DTYPES = (torch.bfloat16, torch.int8, torch.float32, torch.float64)


def case(sizes: list[int], gap: int, pairs: int, dtype: torch.dtype, seed: int) -> list[Any]:
    """Random sources of 7 blocks and destinations of 9, `pairs` different targets; gaps between blocks differ."""
    generator = torch.Generator().manual_seed(seed)

    def blocks(count: int, size: int, gap: int) -> torch.Tensor:
        return torch.randint(-100, 100, (count, size + gap), generator=generator).to(dtype)[:, :size]

    origins = torch.randint(0, 7, (pairs,), generator=generator)
    targets = torch.randperm(9, generator=generator)[:pairs]
    sources = [blocks(7, size, gap) for size in sizes]
    return [sources, [blocks(9, size, 5 - gap) for size in sizes], torch.stack([origins, targets], 1)]


def expected(
    sources: list[torch.Tensor], destinations: list[torch.Tensor], mapping: torch.Tensor
) -> list[torch.Tensor]:
    results = [destination.clone() for destination in destinations]
    for source, result in zip(sources, results, strict=True):
        for origin, target in mapping.tolist():
            result[target] = source[origin]
    return results


def same(results: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(result.cpu(), want) for result, want in zip(results, wanted, strict=True))


def stored(tensor: torch.Tensor) -> torch.Tensor:
    """All bytes of a tensor's storage, gaps included."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


cases = st.builds(
    case,
    st.lists(st.one_of(st.integers(1, 70), st.sampled_from([8192, 16_385, 65_537])), max_size=4),
    st.sampled_from([0, 1, 5]),
    st.integers(0, 9),
    st.sampled_from(DTYPES),
    st.integers(0, 999),
)


@settings(max_examples=50, deadline=None)
@given(cases, st.sampled_from([1, 3, 40]))
@example(case([200_000], 1, 1, torch.bfloat16, 0), 40)
def test_blocks_arrive_and_the_others_stay(simulate: Simulate, arguments: list[Any], cores: int) -> None:
    wanted = expected(*arguments)
    sources, destinations, mapping = arguments
    on_reference = [tensor.clone() for tensor in destinations]
    before = [stored(tensor).clone() for tensor in destinations]
    simulate(package, sources, destinations, mapping, cores=cores)
    package.reference(sources, on_reference, mapping)
    assert same(destinations, wanted) and same(on_reference, wanted)
    for destination, old in zip(destinations, before, strict=True):
        # What lies between the blocks is as it was.
        gaps = torch.ones(destination.shape[0], destination.stride(0) * destination.element_size(), dtype=torch.bool)
        gaps[:, : destination.shape[1] * destination.element_size()] = False
        assert torch.equal(stored(destination)[gaps.flatten()], old[gaps.flatten()])


def test_one_tensor_may_be_source_and_destination(simulate: Simulate) -> None:
    cache = torch.arange(24, dtype=torch.int32).view(6, 4)
    simulate(package, [cache], [cache], torch.tensor([[0, 5], [1, 1], [2, 4]]))
    assert cache[:, 0].tolist() == [0, 4, 8, 12, 8, 0]


def test_more_tensors_and_pairs_than_fit_at_once(simulate: Simulate) -> None:
    source, destination = torch.arange(2000).view(2000, 1), torch.zeros(2000, 1, dtype=torch.int64)
    mapping = torch.stack([torch.arange(2000), torch.arange(2000).flip(0)], 1)
    simulate(package, [source], [destination], mapping)
    assert torch.equal(destination, source.flip(0))
    sources = [torch.full((2, 3), number, dtype=torch.int32) for number in range(260)]
    destinations = [torch.zeros(2, 3, dtype=torch.int32) for _ in sources]
    simulate(package, sources, destinations, torch.tensor([[0, 1]]))
    assert all(part.tolist() == [[0] * 3, [number] * 3] for number, part in enumerate(destinations))


@settings(max_examples=15, deadline=None)
@given(cases)
def test_the_operator_launches_it_on_the_device(npu: ModuleType, arguments: list[Any]) -> None:
    assert loading.unavailable(package.KERNEL) is None
    wanted = expected(*arguments)
    sources, destinations, mapping = arguments
    on_device = [tensor.npu() for tensor in destinations]
    package.copy_blocks([tensor.npu() for tensor in sources], on_device, mapping.npu())
    assert same(on_device, wanted)


def ranges(memory: torch.Tensor, moves: list[tuple[int, int, int]], sizes: torch.dtype) -> list[torch.Tensor]:
    begin = memory.data_ptr()
    sources, destinations, lengths = zip(*moves, strict=True) if moves else ((), (), ())
    return [
        torch.tensor([begin + at for at in sources], dtype=torch.uint64),
        torch.tensor([begin + at for at in destinations], dtype=torch.uint64),
        torch.tensor(lengths, dtype=sizes),
    ]


@st.composite
def moves(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int]]]:
    """Ranges that do not touch each other; each goes to an area of its own, or down over its own start."""
    at, found = draw(st.integers(0, 3)), []
    for _ in range(draw(st.integers(0, 6))):
        size = draw(st.one_of(st.integers(0, 100), st.sampled_from([65_535, 65_536, 65_537, 200_001])))
        down = draw(st.one_of(st.just(size), st.integers(0, size)))
        found.append((at + down, at, size))
        at += size + down + draw(st.integers(0, 2))
    return at + 1, found


@settings(max_examples=50, deadline=None)
@given(moves(), st.sampled_from([torch.int32, torch.int64]), st.sampled_from([1, 3, 40]))
@example((400_000, [(1, 0, 399_000)]), torch.int32, 40)
def test_ranges_move_as_in_a_bytearray(
    simulate: Simulate, layout: tuple[int, list[tuple[int, int, int]]], sizes: torch.dtype, cores: int
) -> None:
    total, found = layout
    memory = torch.randint(0, 256, (total,), dtype=torch.uint8)
    wanted = bytearray(memory.numpy().tobytes())
    for source, destination, size in found:
        wanted[destination : destination + size] = wanted[source : source + size]
    on_reference = memory.clone()
    simulate(MEMORY, [memory], *ranges(memory, found, sizes), cores=cores)
    package.reference_memory([on_reference], *ranges(on_reference, found, sizes))
    assert memory.numpy().tobytes() == bytes(wanted) and on_reference.numpy().tobytes() == bytes(wanted)


@pytest.mark.parametrize("function", [package.copy_memory, package.reference_memory])
def test_ranges_move_on_the_device(npu: ModuleType, function: Any) -> None:
    memory = torch.arange(200, dtype=torch.uint8).npu()
    lists = [part.npu() for part in ranges(memory, [(10, 3, 50), (100, 150, 7)], torch.int32)]
    function([memory], *lists)
    result = memory.cpu().tolist()
    assert result == [*range(3), *range(10, 60), *range(53, 150), *range(100, 107), *range(157, 200)]


def test_torch_accepts_the_operators() -> None:
    torch.library.opcheck(package.copy_blocks, tuple(case([3, 4], 0, 2, torch.float32, 0)))
    memory = torch.zeros(9, dtype=torch.uint8)
    torch.library.opcheck(package.copy_memory, ([memory], *ranges(memory, [], torch.int32)))


@pytest.mark.parametrize(
    ("sources", "destinations", "mapping", "error", "words"),
    [
        ([(2, 3)], [], [[0, 0]], ValueError, "1 sources and 0 destinations"),
        ([(2, 3)], [(2, 4)], [[0, 0]], ValueError, r"source 0 has blocks \[3\], its destination \[4\]"),
        ([(2, 3)], [(2, 3)], [[0, 0, 0]], ValueError, "block_mapping has 3 columns"),
        ([()], [()], [[0, 0]], ValueError, "source 0 has blocks"),
    ],
)
def test_what_it_cannot_copy_is_refused(
    sources: Any, destinations: Any, mapping: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        package.copy_blocks(
            [torch.zeros(shape) for shape in sources],
            [torch.zeros(shape) for shape in destinations],
            torch.tensor(mapping),
        )


def test_other_dtypes_and_scattered_blocks_are_refused() -> None:
    whole, mapping = torch.zeros(2, 3, 4), torch.tensor([[0, 1]])
    with pytest.raises(TypeError, match=r"source 0 is torch\.float32, its destination torch\.float16"):
        package.copy_blocks([whole], [whole.half()], mapping)
    with pytest.raises(TypeError, match=r"block_mapping is torch\.int32"):
        package.copy_blocks([whole], [whole.clone()], mapping.int())
    with pytest.raises(ValueError, match="the blocks of destination 0 are not contiguous"):
        package.copy_blocks([whole.clone()[:, :, :2].contiguous()], [whole[:, :, :2]], mapping)


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (1, torch.zeros(1), TypeError, "sources is torch.float32"),
        (2, torch.zeros(2, dtype=torch.int64), ValueError, "1 sources, 2 destinations and 1 sizes"),
        (3, torch.zeros(1, dtype=torch.uint64), TypeError, "sizes is torch.uint64"),
    ],
)
def test_lists_it_cannot_read_are_refused(place: int, value: Any, error: type[Exception], words: str) -> None:
    memory = torch.zeros(9, dtype=torch.uint8)
    arguments: list[Any] = [[memory], *ranges(memory, [(4, 0, 2)], torch.int64)]
    arguments[place] = value
    with pytest.raises(error, match=words):
        package.copy_memory(*arguments)
