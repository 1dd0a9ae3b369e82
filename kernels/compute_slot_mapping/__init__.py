"""Where each token's key and value go in the paged KV cache."""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="compute_slot_mapping",
    why="One launch per step instead of a search, a gather and arithmetic on int64, which vector cores do not have.",
    replaces=9,
    entries=("compute_slot_mapping",),
    parameters=("ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32"),
)

PADDING_SLOT = -1
TILE = 2048
"""Tokens that one core takes at a time (kTile in the source)."""


def check(
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    slot_mapping: torch.Tensor,
) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, a block size that is no power of two, a layout.
    """
    for name, tensor, dtype, dims in (
        ("query_start_loc", query_start_loc, torch.int32, 1),
        ("positions", positions, torch.int64, 1),
        ("block_table", block_table, torch.int32, 2),
        ("slot_mapping", slot_mapping, torch.int64, 1),
    ):
        if tensor.dtype != dtype:
            raise TypeError(f"compute_slot_mapping: {name} is {tensor.dtype}, it must be {dtype}")
        if tensor.dim() != dims:
            raise ValueError(f"compute_slot_mapping: {name} has {tensor.dim()} dimensions, it must have {dims}")
        if tensor.stride(-1) != 1:
            raise ValueError(f"compute_slot_mapping: the last dimension of {name} must be contiguous")
    requests = query_start_loc.shape[0] - 1
    if requests < 0 or block_table.shape[0] < requests:
        raise ValueError(
            f"compute_slot_mapping: query_start_loc names {requests} requests, block_table has {block_table.shape[0]}"
        )
    if slot_mapping.shape[0] < positions.shape[0]:
        raise ValueError(
            f"compute_slot_mapping: slot_mapping holds {slot_mapping.shape[0]} of {positions.shape[0]} tokens"
        )
    if block_size < 1 or block_size & (block_size - 1):
        raise ValueError(f"compute_slot_mapping: block_size is {block_size}, it must be a power of two")


def reference(
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    slot_mapping: torch.Tensor,
) -> None:
    """The same in PyTorch."""
    tokens = positions.shape[0]
    if tokens:
        order = torch.arange(tokens, device=positions.device, dtype=query_start_loc.dtype)
        # Entries 1 ... requests - 1 are where a new request starts; counting those at or before a token gives its
        # request.
        requests = torch.searchsorted(query_start_loc[1:-1].contiguous(), order, right=True)
        blocks = block_table[requests, positions // block_size]
        slot_mapping[:tokens] = blocks * block_size + positions % block_size
    slot_mapping[tokens:].fill_(PADDING_SLOT)


def launch(
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    slot_mapping: torch.Tensor,
) -> None:
    """One launch; the cores take tiles of the requests' tokens, and of the padding behind them, in turn."""
    requests = query_start_loc.shape[0] - 1
    capacity = slot_mapping.shape[0]
    loading.launch(
        KERNEL,
        "compute_slot_mapping",
        max(1, min(loading.vector_cores(), requests + capacity // TILE)),
        query_start_loc,
        positions,
        block_table,
        slot_mapping,
        requests,
        positions.shape[0],
        capacity,
        block_table.stride(0),
        block_size.bit_length() - 1,
    )


def fake(
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    slot_mapping: torch.Tensor,
) -> None:
    """Nothing to allocate: the result is an argument."""


compute_slot_mapping = operators.define(
    KERNEL,
    "compute_slot_mapping(Tensor query_start_loc, Tensor positions, Tensor block_table, int block_size, "
    "Tensor(a!) slot_mapping) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Fills `slot_mapping` with the cache slot of each token, and -1 behind the last one.

Args:
    query_start_loc: ``[requests + 1]`` int32: the first token of each request, then the number of tokens, which must be
        the length of `positions` (not checked: its value is on the device).
    positions: ``[tokens]`` int64, tokens: the position of each token in its request.
    block_table: ``[at least requests, max blocks]`` int32: the cache blocks of each request; rows may be apart.
    block_size: tokens per cache block, a power of two.
    slot_mapping: ``[at least tokens]`` int64, the result: ``block * block_size + position % block_size``, which must be
        less than 2^31: vector cores compute in int32.
"""
