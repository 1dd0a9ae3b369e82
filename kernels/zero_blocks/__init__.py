"""Zeroing cache blocks in all layers at once.

Cost: each byte is written once and nothing but the tables is read, which is the minimum; one vector instruction per
core makes the zeros. It replaces one launch per segment, 64 for 32 layers with keys and values apart (`index_fill_` by
hostcann's trace); stock vLLM needs Triton.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ascend_patch.kernels import addresses, loading, operators
from ascend_patch.kernels.arguments import LARGEST_INT32, expect
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="zero_blocks",
    why="One launch per step for all layers in the place of vLLM's Triton kernel, which needs Triton for NPUs.",
    replaces=64,
    entries=("zero_blocks",),
    parameters=("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32"),
)

WORD = 4
"""Bytes of the unit in which strides and sizes are given."""


def check(
    caches: Sequence[torch.Tensor],
    segment_addresses: torch.Tensor,
    segment_strides: torch.Tensor,
    segment_sizes: torch.Tensor,
    block_ids: torch.Tensor,
) -> None:
    """Raises what the operator refuses; addresses and numbers on the device are not looked at.

    Raises:
        TypeError: a dtype.
        ValueError: dimensions, layout, tables of different sizes, or more units than int32 counts.
    """
    name = KERNEL.name
    expect(name, "segment_addresses", segment_addresses, (torch.uint64, torch.int64), 1)
    expect(name, "segment_strides", segment_strides, torch.int64, 1)
    expect(name, "segment_sizes", segment_sizes, torch.int64, 1)
    expect(name, "block_ids", block_ids, torch.int64, 1)
    sizes = [table.shape[0] for table in (segment_addresses, segment_strides, segment_sizes)]
    if len(set(sizes)) != 1:
        raise ValueError(f"{name}: the tables of segments have {sizes[0]}, {sizes[1]} and {sizes[2]} entries")
    if sizes[0] * block_ids.shape[0] > LARGEST_INT32:
        raise ValueError(f"{name}: {block_ids.shape[0]} blocks of {sizes[0]} segments are more than int32 counts")


def reference(
    caches: Sequence[torch.Tensor],
    segment_addresses: torch.Tensor,
    segment_strides: torch.Tensor,
    segment_sizes: torch.Tensor,
    block_ids: torch.Tensor,
) -> None:
    """The same in PyTorch; reads the tables back, so the host waits for the device."""
    tables = [table.cpu().tolist() for table in (segment_addresses, segment_strides, segment_sizes)]
    blocks = block_ids.cpu().tolist()
    for address, stride, size in zip(*tables, strict=True):
        for block in blocks:
            addresses.span(caches, address + block * stride * WORD, size * WORD).zero_()


def launch(
    caches: Sequence[torch.Tensor],
    segment_addresses: torch.Tensor,
    segment_strides: torch.Tensor,
    segment_sizes: torch.Tensor,
    block_ids: torch.Tensor,
) -> None:
    """One launch; each core takes blocks of segments in turn, several cores one block if there are few."""
    segments, blocks = segment_addresses.shape[0], block_ids.shape[0]
    if segments and blocks:
        cores = loading.vector_cores()
        loading.launch(
            KERNEL,
            KERNEL.entries[0],
            cores,
            segment_addresses,
            segment_strides,
            segment_sizes,
            block_ids,
            segments,
            blocks,
            max(1, cores // (segments * blocks)),
        )


def fake(
    caches: Sequence[torch.Tensor],
    segment_addresses: torch.Tensor,
    segment_strides: torch.Tensor,
    segment_sizes: torch.Tensor,
    block_ids: torch.Tensor,
) -> None:
    """Nothing to allocate: the results are arguments."""


zero_blocks = operators.define(
    KERNEL,
    "zero_blocks(Tensor(a!)[] caches, Tensor segment_addresses, Tensor segment_strides, Tensor segment_sizes, "
    "Tensor block_ids) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Writes zeros to the given blocks of every segment.

The tables are those that ``KVBlockZeroer`` of ``vllm/v1/worker/utils.py`` keeps in its ``_meta``, and `block_ids` is
what its ``zero_block_ids`` puts on the device: block ``b`` of a segment begins ``b * stride`` words behind its address.
A segment whose blocks lie outside the named memory is a fault on the device.

Args:
    caches: tensors whose storages the segments lie in (the runner's KV caches); only the reference reads them.
    segment_addresses: ``[segments]`` uint64 or int64, bytes, multiples of 4.
    segment_strides: ``[segments]`` int64, 4-byte words from one block to the next.
    segment_sizes: ``[segments]`` int64, 4-byte words of a block to zero.
    block_ids: ``[blocks]`` int64, block numbers.
"""
