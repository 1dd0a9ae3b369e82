"""The paged key/value cache: where tokens go, and putting them there."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators


def scatter_kv_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """Writes each token's key and value into its slot, in place.

    Args:
        key: ``[tokens, kv_heads, head_size]`` float32, float16, bfloat16 or an integer type; may be strided.
        value: ``[tokens, kv_heads, value_size]``, the type of `key`.
        key_cache: ``[blocks, block_size, kv_heads, head_size]``, the type of `key`, contiguous.
        value_cache: ``[blocks, block_size, kv_heads, value_size]``, likewise.
        slot_mapping: ``[tokens]`` int32 or int64, ``block * block_size + row``. CANN documents 0 to
            ``blocks * block_size - 1`` without repetition: cut off padding (-1) before the call.

    Source: CANN ops-transformer, aclnnScatterPaKvCache, scenario 2 (cache mode "Norm"); not on 310P.
    """
    operators.npu_scatter_pa_kv_cache(key, value, key_cache, value_cache, slot_mapping, cache_mode="Norm")


def compute_slot_mapping(
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    slot_mapping: torch.Tensor,
) -> None:
    """Fills `slot_mapping` with the cache slot of each token, and -1 behind the last one. No host synchronisation.

    Args:
        query_start_loc: ``[requests + 1]`` integer: the first token of each request, then the number of tokens.
        positions: ``[tokens]`` int64: the position of each token in its request.
        block_table: ``[at least requests, max blocks]`` int32: the cache blocks of each request in order.
        block_size: tokens per cache block.
        slot_mapping: ``[at least tokens]`` int64, the result.
    """
    tokens = positions.shape[0]
    order = torch.arange(tokens, device=positions.device, dtype=query_start_loc.dtype)
    # Entries 1 ... requests - 1 are where a new request starts; counting those at or before a token gives its request.
    requests = torch.searchsorted(query_start_loc[1:-1].contiguous(), order, right=True)
    blocks = block_table[requests, positions // block_size]
    slot_mapping[:tokens] = blocks * block_size + positions % block_size
    slot_mapping[tokens:].fill_(-1)


def context_slots(block_table: torch.Tensor, kv_lens: list[int], block_size: int) -> tuple[torch.Tensor, list[int]]:
    """The cache slots of whole contexts, for operators that cannot follow a block table.

    Args:
        block_table: ``[at least requests, max blocks]`` int32: the cache blocks of each request in order.
        kv_lens: context length of each request, on the host.
        block_size: tokens per cache block.

    Returns:
        ``[sum(kv_lens)]`` int64 on the table's device, request after request; and the running total of `kv_lens`.
    """
    lengths = torch.tensor(kv_lens, dtype=torch.int64)
    ends = lengths.cumsum(0)
    requests = torch.arange(len(kv_lens)).repeat_interleave(lengths)
    positions = torch.arange(requests.shape[0]) - (ends - lengths).repeat_interleave(lengths)
    return slots_of(block_table, requests, positions, block_size), ends.tolist()


def slots_of(
    block_table: torch.Tensor, requests: torch.Tensor, positions: torch.Tensor, block_size: int
) -> torch.Tensor:
    """The cache slots of tokens.

    Args:
        block_table: ``[at least requests, max blocks]`` int32: the cache blocks of each request in order.
        requests: ``[tokens]`` int64 on the host: the row of each token's request.
        positions: ``[tokens]`` int64 on the host: the position of each token in its request.
        block_size: tokens per cache block.

    Returns:
        ``[tokens]`` int64 on the table's device.
    """
    entries = requests * block_table.shape[1] + positions // block_size
    indices = torch.stack((entries, positions % block_size)).to(block_table.device)
    # Not by brackets, which make the host wait on an NPU.
    return block_table.reshape(-1).index_select(0, indices[0]) * block_size + indices[1]
