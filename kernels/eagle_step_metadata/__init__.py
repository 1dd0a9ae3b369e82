"""Positions, sequence lengths and cache slots of the next autoregressive draft step.

Cost: 16 bytes read and 20 written per request, and 8 written per padding slot, which is the minimum (a block table word
is a transfer of its own); no vector instructions: scalars do the arithmetic, 32 requests per core. It replaces 22
launches (the same in PyTorch, by hostcann's trace); stock vLLM needs Triton.
"""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.arguments import LARGEST_INT32, expect
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="eagle_step_metadata",
    why="One launch per draft step in the place of vLLM's Triton kernel, which needs Triton for NPUs.",
    replaces=22,
    entries=("eagle_step_metadata",),
    parameters=("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32"),
)

PADDING_SLOT = -1
TILE = 32
"""Requests that one core takes at a time (kTile in the source)."""


def check(
    positions: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    block_size: int,
    max_model_len: int,
    out_positions: torch.Tensor,
    out_slot_mapping: torch.Tensor,
) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: dimensions, layout, a tensor with fewer entries than there are requests, a block table without
            columns, a block size or a model length below 1 or beyond int32.
    """
    name = KERNEL.name
    expect(name, "positions", positions, torch.int64, 1)
    requests = positions.shape[0]
    expect(name, "block_table", block_table, torch.int32, 2, at_least=requests, rows_apart=True)
    expect(name, "seq_lens", seq_lens, torch.int32, 1, at_least=requests)
    expect(name, "out_positions", out_positions, torch.int64, 1, at_least=requests)
    expect(name, "out_slot_mapping", out_slot_mapping, torch.int64, 1, at_least=requests)
    if requests and not block_table.shape[1]:
        raise ValueError(f"{name}: block_table has no columns")
    for word, value in (("block_size", block_size), ("max_model_len", max_model_len)):
        if not 1 <= value <= LARGEST_INT32:
            raise ValueError(f"{name}: {word} is {value}, it must be 1 to {LARGEST_INT32}")


def reference(
    positions: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    block_size: int,
    max_model_len: int,
    out_positions: torch.Tensor,
    out_slot_mapping: torch.Tensor,
) -> None:
    """The same in PyTorch."""
    requests = positions.shape[0]
    following = positions + 1
    exceeds = following >= max_model_len
    following = torch.where(exceeds, 0, following)
    columns = (following // block_size).clamp(max=max(block_table.shape[1] - 1, 0))
    blocks = block_table[:requests].gather(1, columns.unsqueeze(1)).squeeze(1).long()
    slots = torch.where(exceeds, PADDING_SLOT, blocks * block_size + following % block_size)
    lengths = torch.where(exceeds, 1, seq_lens[:requests] + 1).clamp(max=max_model_len)
    # Last, because the results may be the arguments.
    seq_lens[:requests] = lengths
    out_positions[:requests] = following
    out_slot_mapping[:requests] = slots
    out_slot_mapping[requests:] = PADDING_SLOT


def launch(
    positions: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    block_size: int,
    max_model_len: int,
    out_positions: torch.Tensor,
    out_slot_mapping: torch.Tensor,
) -> None:
    """One launch; the cores take tiles of the requests, and of the padding behind them, in turn."""
    requests, padded = positions.shape[0], out_slot_mapping.shape[0]
    if padded:
        loading.launch(
            KERNEL,
            KERNEL.entries[0],
            min(loading.vector_cores(), -(-padded // TILE)),
            positions,
            block_table,
            seq_lens,
            out_positions,
            out_slot_mapping,
            requests,
            padded,
            block_table.shape[1],
            block_table.stride(0),
            block_size,
            max_model_len,
        )


def fake(
    positions: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    block_size: int,
    max_model_len: int,
    out_positions: torch.Tensor,
    out_slot_mapping: torch.Tensor,
) -> None:
    """Nothing to allocate: the results are arguments."""


eagle_step_metadata = operators.define(
    KERNEL,
    "eagle_step_metadata(Tensor positions, Tensor block_table, Tensor(a!) seq_lens, int block_size, "
    "int max_model_len, Tensor(b!) out_positions, Tensor(c!) out_slot_mapping) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Moves every request one token ahead: position, sequence length, and the cache slot of the new token.

The arguments are those of ``eagle_step_update_slot_mapping_and_metadata`` in ``vllm/v1/spec_decode/utils.py``, in its
order; its ``input_batch_size`` is the size of `out_slot_mapping`. `out_positions` may be `positions`, as vLLM calls it.
A request whose new position would be `max_model_len` starts over: position 0, length 1, no slot.

Args:
    positions: ``[requests]`` int64, tokens.
    block_table: ``[at least requests, columns]`` int32, rows may be apart. A position behind the last column is looked
        up in the last one.
    seq_lens: ``[at least requests]`` int32, tokens, changed in place: one more, at most `max_model_len`.
    block_size: tokens per cache block, any number.
    max_model_len: tokens.
    out_positions: ``[at least requests]`` int64, a result.
    out_slot_mapping: ``[requests or more]`` int64, a result: ``block * block_size + position % block_size``; -1 behind
        the last request.
"""
