"""Model runner V2's preparation of a batch, in PyTorch operators.

The functions take the arguments of the Triton kernels whose place they take, and the grid before them. Nothing here
waits for the device: how many tokens a batch has is known to it alone, so whole buffers are computed and cut by masks.
Rows are taken with `index_select`, since torch-npu's indexing by a tensor does wait.
Names: `idx_mapping` ``[requests]`` int64 gives the row of each of the batch's requests in the persistent states;
`query_start_loc` ``[requests + 1]`` int32 the first token of each request in the batch.
"""

from __future__ import annotations

from typing import Any

import torch

from ascend_patch import npu
from ascend_patch.kernels.compute_slot_mapping import compute_slot_mapping
from ascend_patch.patches._triton import Launched

Grid = tuple[int, ...]


def pinned_and_device_buffer(self: Any, size: Any, dtype: torch.dtype) -> None:
    """`NonUvaBuffer` with pinned host memory, from which a copy that does not block is safe."""
    self.cpu = torch.zeros(size, dtype=dtype, device="cpu", pin_memory=True)
    self.np = self.cpu.numpy()
    self._uva = torch.zeros(size, dtype=dtype, device="npu")


def tokens_of_requests(query_start_loc: torch.Tensor, requests: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``[tokens]`` each: the number of a token in the batch, and its request (the last one's behind the batch)."""
    order = torch.arange(tokens, dtype=query_start_loc.dtype, device=query_start_loc.device)
    # Entries 1 ... requests - 1 are where a new request starts: counting those at or before a token gives its request.
    return order, torch.searchsorted(query_start_loc[1:requests], order, right=True)


def token_at(token_ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Elements of a matrix; a column past its end, which padding can have, gives some element."""
    width = token_ids.shape[1]
    return token_ids.view(-1).index_select(0, rows * width + columns.clamp(0, width - 1))


@Launched
def apply_write(
    grid: Grid,
    output: torch.Tensor,
    stride: int,
    rows: torch.Tensor,
    starts: torch.Tensor,
    contents: torch.Tensor,
    ends: torch.Tensor,
    groups: None,
    BLOCK_SIZE: int,
    MULTI_GROUP: bool,
) -> None:
    """Write pieces of `contents` into rows of `output`, which is contiguous.

    Args:
        rows: ``[writes]`` int32, with `starts`: where each piece goes.
        contents: the pieces, one after the other.
        ends: ``[writes]`` int32, where each piece ends in `contents`.
    """
    if contents.shape[0] == rows.shape[0]:  # a number each, the usual case while decoding
        places = rows.long() * stride + starts
    else:
        order = torch.arange(contents.shape[0], dtype=ends.dtype, device=ends.device)
        write = torch.searchsorted(ends, order, right=True)
        lengths = torch.diff(ends, prepend=ends.new_zeros(1))
        # What is added to a number's place in `contents` to get its place in the row.
        shift = starts - ends + lengths
        places = rows.index_select(0, write).long() * stride + (shift.index_select(0, write) + order)
    output.view(-1).scatter_(0, places, contents)


@Launched
def gather_block_tables(
    grid: Grid,
    idx_mapping: torch.Tensor,
    sources: tuple[torch.Tensor, ...],
    destinations: tuple[torch.Tensor, ...],
    strides: torch.Tensor,
    num_blocks: torch.Tensor,
    num_blocks_stride: int,
    requests: int,
    num_computed_tokens: torch.Tensor | None = None,
    sliding_window_reach: torch.Tensor | None = None,
    block_sizes: torch.Tensor | None = None,
    MASK_SLIDING_WINDOW: bool = False,
    BLOCK_SIZE: int = 0,
) -> None:
    """Bring the batch's rows of every group's block table together; rows behind them become zero.

    Entries past a request's blocks are what its row holds there, which nothing reads. With `MASK_SLIDING_WINDOW`
    (since 0.33) blocks that lie wholly before the window of the request's first new token become the null block.
    """
    rows = grid[1]
    for group, (source, destination) in enumerate(zip(sources, destinations, strict=True)):
        torch.index_select(source, 0, idx_mapping, out=destination[:requests])
        destination[requests:rows].zero_()
        if MASK_SLIDING_WINDOW:
            assert num_computed_tokens is not None and sliding_window_reach is not None and block_sizes is not None
            reach = sliding_window_reach[group]
            before = (num_computed_tokens.index_select(0, idx_mapping) - reach).clamp_min(0) // block_sizes[group]
            columns = torch.arange(source.shape[1], dtype=before.dtype, device=before.device)
            destination[:requests].masked_fill_((columns < before.unsqueeze(1)) & (reach > 0), 0)


def compute_slot_mappings(
    self: Any,
    idx_mapping: torch.Tensor,
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    num_tokens_padded: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`BlockTables.compute_slot_mappings`: where each token's key and value go, and -1 behind the batch.

    Args:
        positions: ``[num_tokens_padded]`` int64; without graphs there is no padding.

    Returns:
        ``[groups, num_tokens_padded]`` int64.
    """
    slot_mappings = self.slot_mappings if out is None else out
    starts = query_start_loc[: idx_mapping.shape[0] + 1]
    for group, (table, block_size) in enumerate(zip(self.block_tables, self.block_sizes, strict=True)):
        fill = npu.compute_slot_mapping if block_size & (block_size - 1) else compute_slot_mapping
        fill(starts, positions, table.gpu.index_select(0, idx_mapping), block_size, slot_mappings[group])
    return slot_mappings[:, :num_tokens_padded]


@Launched
def prepare_prefill_inputs(
    grid: Grid,
    input_ids: torch.Tensor,
    next_prefill_tokens: torch.Tensor,
    next_prefill_tokens_stride: int,
    num_lookahead: int,
    idx_mapping: torch.Tensor,
    query_start_loc: torch.Tensor,
    all_token_ids: torch.Tensor,
    all_token_ids_stride: int,
    prefill_lens: torch.Tensor,
    num_computed_tokens: torch.Tensor,
    BLOCK_SIZE: int,
    LOOKAHEAD_BLOCK: int,
) -> None:
    """Copy the prompt tokens of this step into `input_ids`; decoding requests keep what is there.

    `next_prefill_tokens` is left alone: only drafting reads it.

    Args:
        input_ids: ``[max tokens]`` int32.
        all_token_ids: ``[max requests, max model length]`` int32.
        prefill_lens: ``[max requests]`` int32, like `num_computed_tokens`.
    """
    order, request = tokens_of_requests(query_start_loc, grid[0], input_ids.shape[0])
    computed = num_computed_tokens.index_select(0, idx_mapping)
    is_prefill = computed < prefill_lens.index_select(0, idx_mapping)
    position = (computed - query_start_loc[: grid[0]]).index_select(0, request) + order
    tokens = token_at(all_token_ids, idx_mapping.index_select(0, request), position)
    taken = is_prefill.index_select(0, request) & (order < query_start_loc[grid[0]])
    input_ids.copy_(torch.where(taken, tokens, input_ids))


@Launched
def prepare_pos_seq_lens(
    grid: Grid,
    positions: torch.Tensor,
    seq_lens: torch.Tensor,
    idx_mapping: torch.Tensor,
    query_start_loc: torch.Tensor,
    num_computed_tokens: torch.Tensor,
    max_num_reqs: int,
    BLOCK_SIZE: int,
) -> None:
    """Positions of the batch's tokens (any number behind them), and context lengths (0 behind the batch).

    Args:
        positions: ``[max tokens]`` int64, filled.
        seq_lens: ``[max requests]`` int32, filled.
    """
    requests = grid[0] - 1
    before_first = num_computed_tokens.index_select(0, idx_mapping) - query_start_loc[:requests]
    seq_lens[:requests] = before_first + query_start_loc[1 : requests + 1]
    seq_lens[requests:].zero_()
    order, request = tokens_of_requests(query_start_loc, requests, positions.shape[0])
    positions.copy_(before_first.index_select(0, request) + order)


@Launched
def combine_sampled_tokens(
    grid: Grid,
    input_ids: torch.Tensor,
    idx_mapping: torch.Tensor,
    last_sampled_tokens: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    prefill_len: torch.Tensor,
    draft_tokens: torch.Tensor,
    draft_tokens_stride: int,
    cu_num_logits: torch.Tensor,
    logits_indices: torch.Tensor,
    BLOCK_SIZE: int,
    NUM_NEW_SAMPLED_TOKENS: int = 1,
) -> None:
    """Where decoding requests take their input from: the token sampled last. Without drafts one logit per request.

    Args:
        logits_indices: ``[requests]`` int64, filled: each request's last token in the batch.
        last_sampled_tokens: ``[max requests, 1]`` int64.
    """
    requests = grid[0]
    torch.sub(query_start_loc[1 : requests + 1], 1, out=logits_indices)
    decodes = seq_lens[:requests] > prefill_len.index_select(0, idx_mapping)
    sampled = last_sampled_tokens.view(-1).index_select(0, idx_mapping).to(input_ids.dtype)
    input_ids.scatter_(0, logits_indices, torch.where(decodes, sampled, input_ids.index_select(0, logits_indices)))


@Launched
def get_num_sampled_and_rejected(
    grid: Grid,
    num_sampled: torch.Tensor,
    num_rejected: torch.Tensor,
    seq_lens: torch.Tensor,
    cu_num_logits: torch.Tensor,
    idx_mapping: torch.Tensor,
    prefill_len: torch.Tensor,
) -> None:
    """In place: a request in the middle of its prompt has sampled nothing and rejected nothing."""
    requests = grid[0]
    unfinished = seq_lens[:requests] < prefill_len.index_select(0, idx_mapping)
    num_sampled.masked_fill_(unfinished, 0)
    logits = cu_num_logits[1 : requests + 1] - cu_num_logits[:requests]
    num_rejected.copy_((logits - num_sampled).masked_fill_(unfinished, 0))


@Launched
def post_update(
    grid: Grid,
    idx_mapping: torch.Tensor,
    num_computed_tokens: torch.Tensor,
    last_sampled_tokens: torch.Tensor,
    output_bin_counts: torch.Tensor,
    output_bin_counts_stride: int,
    sampled_tokens: torch.Tensor,
    sampled_tokens_stride: int,
    num_sampled: torch.Tensor,
    num_rejected: torch.Tensor,
    query_start_loc: torch.Tensor,
    all_token_ids: torch.Tensor,
    all_token_ids_stride: int,
    total_len: torch.Tensor,
    draft_tokens: None = None,
    draft_tokens_out: torch.Tensor | None = None,
    num_draft_tokens: int = 0,
    num_warps: int = 1,
) -> None:
    """Enter a step's results into the requests' states.

    Args:
        sampled_tokens: ``[requests, 1]`` int64; counts where `num_sampled`, ``[requests]`` int32, is 1 and not 0.
        output_bin_counts: ``[max requests, vocabulary]`` int32, how often each token was put out.
        total_len: ``[max requests]`` int32, tokens of a request; the sampled one becomes the next of `all_token_ids`.
    """
    token = sampled_tokens.view(-1)
    sampled = num_sampled > 0
    last = last_sampled_tokens.view(-1)
    last.scatter_(0, idx_mapping, torch.where(sampled, token, last.index_select(0, idx_mapping)))
    width = all_token_ids.shape[1]
    place = idx_mapping * width + total_len.index_select(0, idx_mapping).clamp_max(width - 1)
    flat = all_token_ids.view(-1)
    flat.scatter_(0, place, torch.where(sampled, token.to(flat.dtype), flat.index_select(0, place)))
    output_bin_counts.view(-1).index_add_(0, idx_mapping * output_bin_counts_stride + token, num_sampled)
    total_len.index_add_(0, idx_mapping, num_sampled)
    lengths = query_start_loc[1 : grid[0] + 1] - query_start_loc[: grid[0]]
    num_computed_tokens.index_add_(0, idx_mapping, lengths - num_rejected)
