"""Copying cache blocks in all layers at once, and lists of memory ranges.

Cost: each byte is read once and written once, which is the minimum, in transfers of up to 64 KB of which two are under
way; no vector instructions. It replaces two launches per layer (`index_select` and `index_copy_` by hostcann's trace),
64 for 32 layers; vLLM's `batch_memcpy` needs Triton.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ascend_patch.kernels import addresses, loading, operators
from ascend_patch.kernels.arguments import LARGEST_INT32, expect
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="copy_blocks",
    why="One launch for all blocks of all layers instead of two per layer, and without a copy in between.",
    replaces=64,
    entries=("copy_blocks_int64", "copy_blocks_int32"),
    parameters=("ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),
)


def check(sources: Sequence[torch.Tensor], destinations: Sequence[torch.Tensor], block_mapping: torch.Tensor) -> None:
    """Raises what `copy_blocks` refuses; block numbers are on the device and not looked at.

    Raises:
        TypeError: a dtype.
        ValueError: lists of different lengths, tensors whose blocks differ in size or are not contiguous, a mapping
            that is no list of pairs, or more units than int32 counts.
    """
    name = KERNEL.name
    expect(name, "block_mapping", block_mapping, torch.int64, 2)
    if block_mapping.shape[1] != 2:
        raise ValueError(f"{name}: block_mapping has {block_mapping.shape[1]} columns, it must have 2")
    if len(sources) != len(destinations):
        raise ValueError(f"{name}: {len(sources)} sources and {len(destinations)} destinations")
    if len(sources) * block_mapping.shape[0] > LARGEST_INT32:
        raise ValueError(
            f"{name}: {block_mapping.shape[0]} blocks of {len(sources)} tensors are more than int32 counts"
        )
    for place, (source, destination) in enumerate(zip(sources, destinations, strict=True)):
        if source.dtype != destination.dtype:
            raise TypeError(f"{name}: source {place} is {source.dtype}, its destination {destination.dtype}")
        if source.dim() < 1 or source.shape[1:] != destination.shape[1:]:
            raise ValueError(
                f"{name}: source {place} has blocks {list(source.shape[1:])}, its destination "
                f"{list(destination.shape[1:])}"
            )
        for word, tensor in (("source", source), ("destination", destination)):
            if tensor.shape[0] and not tensor[0].is_contiguous():
                raise ValueError(f"{name}: the blocks of {word} {place} are not contiguous; pass its planes one by one")


def reference(
    sources: Sequence[torch.Tensor], destinations: Sequence[torch.Tensor], block_mapping: torch.Tensor
) -> None:
    """The same in PyTorch."""
    origins, targets = block_mapping.unbind(1)
    for source, destination in zip(sources, destinations, strict=True):
        destination.index_copy_(0, targets, source.index_select(0, origins))


def _region(source: torch.Tensor, destination: torch.Tensor) -> tuple[int, int, int, int, int]:
    size = source.element_size()
    return (
        source.data_ptr(),
        destination.data_ptr(),
        source.stride(0) * size,
        destination.stride(0) * size,
        source.shape[1:].numel() * size,
    )


def launch(sources: Sequence[torch.Tensor], destinations: Sequence[torch.Tensor], block_mapping: torch.Tensor) -> None:
    """One launch; the tables of a set of tensors go to the device at its first call."""
    regions, pairs = len(sources), block_mapping.shape[0]
    if regions and pairs:
        cores = loading.vector_cores()
        described = tuple(map(_region, sources, destinations))
        loading.launch(
            KERNEL,
            "copy_blocks_int64",
            cores,
            *addresses.table(described, block_mapping.device).unbind(0),
            block_mapping,
            regions,
            pairs,
            max(1, cores // (regions * pairs)),
        )


def fake(sources: Sequence[torch.Tensor], destinations: Sequence[torch.Tensor], block_mapping: torch.Tensor) -> None:
    """Nothing to allocate: the results are arguments."""


copy_blocks = operators.define(
    KERNEL,
    "copy_blocks(Tensor[] sources, Tensor(a!)[] destinations, Tensor block_mapping) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Copies blocks of each source to blocks of its destination, all tensors in one launch.

``swap_blocks`` of ``vllm/_custom_ops.py`` is this for one pair of tensors on the device, ``copy_blocks`` of
``vllm/v1/simple_kv_offload/cuda_mem_ops.py`` for all layers. Host memory is out of a kernel's reach: to swap, copy
between the cache and a contiguous buffer on the device, and that buffer with one transfer.

Args:
    sources: ``[blocks, ...]`` each, of any dtype; blocks are contiguous and may be apart (a plane of keys or values).
    destinations: likewise, one for each source, with blocks of the same shape. May be the sources, as long as no block
        is both read and written, or written twice.
    block_mapping: ``[pairs, 2]`` int64: source and destination block numbers.
"""


def check_memory(
    memory: Sequence[torch.Tensor], sources: torch.Tensor, destinations: torch.Tensor, sizes: torch.Tensor
) -> None:
    """Raises what `copy_memory` refuses; addresses are on the device and not looked at.

    Raises:
        TypeError: a dtype.
        ValueError: dimensions, layout, or lists of different lengths.
    """
    expect("copy_memory", "sources", sources, (torch.uint64, torch.int64), 1)
    expect("copy_memory", "destinations", destinations, (torch.uint64, torch.int64), 1)
    expect("copy_memory", "sizes", sizes, (torch.int32, torch.int64), 1)
    counts = [table.shape[0] for table in (sources, destinations, sizes)]
    if len(set(counts)) != 1:
        raise ValueError(f"copy_memory: {counts[0]} sources, {counts[1]} destinations and {counts[2]} sizes")


def reference_memory(
    memory: Sequence[torch.Tensor], sources: torch.Tensor, destinations: torch.Tensor, sizes: torch.Tensor
) -> None:
    """The same in PyTorch; reads the lists back, so the host waits for the device."""
    tables = [table.cpu().tolist() for table in (sources, destinations, sizes)]
    for source, destination, size in zip(*tables, strict=True):
        # A copy in between, because the ranges may overlap.
        data = addresses.span(memory, source, size).clone()
        addresses.span(memory, destination, size).copy_(data)


def launch_memory(
    memory: Sequence[torch.Tensor], sources: torch.Tensor, destinations: torch.Tensor, sizes: torch.Tensor
) -> None:
    """One launch; each core takes ranges in turn, several cores one range if there are few."""
    count = sources.shape[0]
    if count:
        cores = loading.vector_cores()
        entry = "copy_blocks_int32" if sizes.dtype == torch.int32 else "copy_blocks_int64"
        share = max(1, cores // count)
        loading.launch(KERNEL, entry, cores, sources, destinations, None, None, sizes, None, count, 1, share)


def fake_memory(
    memory: Sequence[torch.Tensor], sources: torch.Tensor, destinations: torch.Tensor, sizes: torch.Tensor
) -> None:
    """Nothing to allocate: the results are arguments."""


copy_memory = operators.define(
    KERNEL,
    "copy_memory(Tensor(a!)[] memory, Tensor sources, Tensor destinations, Tensor sizes) -> ()",
    check=check_memory,
    launch=launch_memory,
    reference=reference_memory,
    fake=fake_memory,
)
"""Copies ranges of memory on the device, each given by its addresses and size.

The lists are those of ``batch_memcpy`` in ``vllm/v1/worker/mamba_utils.py``. A range may overlap its own destination if
it moves to lower addresses (a convolution state that drops its oldest columns); ranges must not touch each other.

Args:
    memory: tensors whose storages the ranges lie in (the states); only the reference reads them.
    sources: ``[ranges]`` uint64 or int64, addresses.
    destinations: ``[ranges]`` uint64 or int64, addresses.
    sizes: ``[ranges]`` int32 or int64, bytes.
"""
