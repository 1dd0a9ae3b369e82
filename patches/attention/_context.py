"""What prompts see in the cache, cut into chunks whose keys and values fit into memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ascend_patch import npu


@dataclass(slots=True)
class ContextChunk:
    """A part of the context of consecutive requests.

    Attributes:
        slots: ``[rows]`` int64, the cache slot of each token of the part.
        tokens: the new tokens of these requests, among all new tokens.
        query_ends: cumulative query lengths of these requests, on the host.
        kv_ends: cumulative lengths of their parts, on the host.
    """

    slots: torch.Tensor
    tokens: slice
    query_ends: list[int]
    kv_ends: list[int]


def pieces(contexts: list[int], rows: int) -> list[list[tuple[int, int, int]]]:
    """Chunks of at most `rows` tokens: for each the requests it has a part of, as (request, first token, tokens).

    The requests of a chunk follow each other, and none occurs twice in one.

    Args:
        contexts: length of each request's context; 0 for none.
        rows: at least 1.
    """
    chunks: list[list[tuple[int, int, int]]] = []
    free, last = 0, -1
    for request, length in enumerate(contexts):
        start = 0
        while start < length:
            if not free or last != request - 1:
                chunks.append([])
                free = rows
            count = min(length - start, free)
            chunks[-1].append((request, start, count))
            start, free, last = start + count, free - count, request
    return chunks


def plan(
    contexts: list[int], query_ends: list[int], block_table: torch.Tensor, block_size: int, rows: int
) -> list[ContextChunk]:
    """The chunks of `pieces`, with their cache slots. No host synchronisation.

    Args:
        contexts: length of each request's context.
        query_ends: cumulative query lengths, one per request.
        block_table: ``[num_requests, max_blocks]`` int32.
        block_size: tokens per cache block.
        rows: most context tokens of a chunk.
    """
    return _with_slots(pieces(contexts, rows), query_ends, block_table, block_size)


def plan_windows(
    kv_lens: list[int], query_ends: list[int], block_table: torch.Tensor, block_size: int, window: int, rows: int
) -> list[ContextChunk]:
    """What new tokens see through a sliding window, themselves included: whole requests, about `rows` tokens a chunk.

    Args:
        kv_lens: length of each request with its new tokens.
        query_ends: cumulative query lengths, one per request.
        block_table: ``[num_requests, max_blocks]`` int32.
        block_size: tokens per cache block.
        window: tokens that a token sees, itself included.
        rows: most tokens of a chunk with several requests.
    """
    chunks: list[list[tuple[int, int, int]]] = []
    free = 0
    for request, (length, end) in enumerate(zip(kv_lens, query_ends, strict=True)):
        new = end - (query_ends[request - 1] if request else 0)
        count = min(length, new + window - 1)
        if not chunks or count > free:
            chunks.append([])
            free = rows
        chunks[-1].append((request, length - count, count))
        free -= count
    return _with_slots(chunks, query_ends, block_table, block_size)


def _with_slots(
    chunks: list[list[tuple[int, int, int]]], query_ends: list[int], block_table: torch.Tensor, block_size: int
) -> list[ContextChunk]:
    if not chunks:
        return []
    parts = [part for chunk in chunks for part in chunk]
    counts = torch.tensor([count for _, _, count in parts])
    ends = counts.cumsum(0)
    requests = torch.tensor([request for request, _, _ in parts]).repeat_interleave(counts)
    shifts = torch.tensor([start for _, start, _ in parts]) - (ends - counts)
    positions = torch.arange(requests.shape[0]) + shifts.repeat_interleave(counts)
    slots = npu.slots_of(block_table, requests, positions, block_size)
    result = []
    for chunk, part_slots in zip(
        chunks, slots.split([sum(part[2] for part in chunk) for chunk in chunks]), strict=True
    ):
        first, final = chunk[0][0], chunk[-1][0]
        start = query_ends[first - 1] if first else 0
        kv_ends = torch.tensor([count for _, _, count in chunk]).cumsum(0).tolist()
        result.append(
            ContextChunk(
                part_slots,
                slice(start, query_ends[final]),
                [end - start for end in query_ends[first : final + 1]],
                kv_ends,
            )
        )
    return result
