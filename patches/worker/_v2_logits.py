"""What model runner V2 does to logits before it samples, in PyTorch operators and our kernels.

The functions take the arguments of the Triton kernels whose place they take, and the grid before them. `logits` are
``[rows, vocabulary]`` and changed in place, `rows_of` ``[rows]`` int64 gives each row's request in the persistent
states; without drafts a request has one row. Nothing here waits for the device.
"""

from __future__ import annotations

import torch

from ascend_patch.kernels.apply_grammar_bitmask import apply_grammar_bitmask
from ascend_patch.kernels.min_p_temperature import min_p_temperature
from ascend_patch.patches._triton import Launched
from ascend_patch.patches.worker._v2_inputs import Grid, token_at

WORD_BITS = 32


def columns(width: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(width, dtype=torch.int32, device=like.device)


def chosen(ids: torch.Tensor, valid: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """``[rows, vocabulary]`` bool: the tokens in `ids` ``[rows, n]`` where `valid`."""
    # What is not valid goes to one column more, which is cut off.
    marks = torch.zeros((ids.shape[0], vocabulary + 1), dtype=torch.bool, device=ids.device)
    marks.scatter_(1, torch.where(valid, ids, vocabulary).long(), True)
    return marks[:, :vocabulary]


@Launched
def temperature(
    grid: Grid,
    logits: torch.Tensor,
    logits_stride: int,
    rows_of: torch.Tensor,
    temperatures: torch.Tensor,
    vocabulary: int,
    BLOCK_SIZE: int,
) -> None:
    """Divide each row by its temperature; 0 stands for greedy and 1 for nothing to do."""
    min_p_temperature(logits, temperatures.index_select(0, rows_of), None)


@Launched
def min_p(
    grid: Grid,
    logits: torch.Tensor,
    logits_stride: int,
    rows_of: torch.Tensor,
    limits: torch.Tensor,
    vocabulary: int,
    BLOCK_SIZE: int,
) -> None:
    """Exclude tokens whose probability is below the limit times the largest one."""
    min_p_temperature(logits, None, limits.index_select(0, rows_of))


@Launched
def bincount(
    grid: Grid,
    rows_of: torch.Tensor,
    all_token_ids: torch.Tensor,
    all_token_ids_stride: int,
    prompt_len: torch.Tensor,
    prefill_len: torch.Tensor,
    prompt_bin_mask: torch.Tensor,
    prompt_bin_mask_stride: int,
    output_bin_counts: torch.Tensor,
    output_bin_counts_stride: int,
    BLOCK_SIZE: int,
) -> None:
    """Statistics of new requests with penalties, whose rows are zero so far.

    Args:
        prompt_bin_mask: ``[max requests, ceil(vocabulary / 32)]`` int32, filled: a bit for each token of the prompt.
        output_bin_counts: ``[max requests, vocabulary]`` int32: tokens that a resumed request had put out are counted.
    """
    width = min(grid[1] * BLOCK_SIZE, all_token_ids.shape[1])
    tokens = all_token_ids[:, :width].index_select(0, rows_of).long()
    places = columns(width, tokens)
    in_prompt = places < prompt_len.index_select(0, rows_of).unsqueeze(1)
    in_output = ~in_prompt & (places < prefill_len.index_select(0, rows_of).unsqueeze(1))
    counts = in_output.to(output_bin_counts.dtype).view(-1)
    tokens_put_out = torch.where(in_output, tokens, 0) + rows_of.unsqueeze(1) * output_bin_counts_stride
    output_bin_counts.view(-1).index_add_(0, tokens_put_out.view(-1), counts)
    words = prompt_bin_mask.shape[1]
    bits = chosen(tokens, in_prompt, words * WORD_BITS).view(-1, words, WORD_BITS).to(torch.int32)
    prompt_bin_mask.index_copy_(0, rows_of, (bits << columns(WORD_BITS, bits)).sum(-1, dtype=torch.int32))


@Launched
def penalties(
    grid: Grid,
    logits: torch.Tensor,
    logits_stride: int,
    rows_of: torch.Tensor,
    token_ids: torch.Tensor,
    local_pos: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
    prompt_bin_mask: torch.Tensor,
    prompt_bin_mask_stride: int,
    output_bin_counts: torch.Tensor,
    output_bin_counts_stride: int,
    vocabulary: int,
    BLOCK_SIZE: int,
) -> None:
    """Repetition penalty over prompt and output, then frequency and presence penalty over the output.

    Args:
        repetition: ``[max requests]`` float32, as `frequency` and `presence`; 1, 0 and 0 change nothing.
    """
    counts = output_bin_counts.index_select(0, rows_of)[:, :vocabulary]
    put_out = counts > 0
    words = prompt_bin_mask.index_select(0, rows_of).unsqueeze(-1) >> columns(WORD_BITS, counts)
    seen = (words & 1).flatten(1)[:, :vocabulary].bool() | put_out
    scale = torch.where(seen, repetition.index_select(0, rows_of).unsqueeze(1), 1.0)
    logits.mul_(torch.where(logits > 0, 1.0 / scale, scale))
    logits.sub_(frequency.index_select(0, rows_of).unsqueeze(1) * counts)
    logits.sub_(presence.index_select(0, rows_of).unsqueeze(1) * put_out)


@Launched
def bias(
    grid: Grid,
    logits: torch.Tensor,
    logits_stride: int,
    vocabulary: int,
    rows_of: torch.Tensor,
    num_allowed: torch.Tensor,
    allowed_ids: torch.Tensor,
    allowed_ids_stride: int,
    num_biased: torch.Tensor,
    biased_ids: torch.Tensor,
    biased_ids_stride: int,
    biases: torch.Tensor,
    biases_stride: int,
    positions: torch.Tensor,
    min_lens: torch.Tensor,
    num_stops: torch.Tensor,
    restore_when_all_masked: torch.Tensor,
    stop_ids: torch.Tensor,
    stop_ids_stride: int,
    BLOCK_SIZE: int,
    LOGITS_BLOCK_SIZE: int,
    CHECK_ALL_MASKED_ROWS: bool,
) -> None:
    """Allowed tokens, then logit bias, then no stop token before the least number of tokens.

    Args:
        num_allowed: ``[max requests]`` int32, how many entries of a row of `allowed_ids` count; 0 allows all tokens.
            `num_biased` and `num_stops` likewise.
        positions: ``[rows]`` int64, the position whose successor is sampled.
        min_lens: ``[max requests]`` int32: from this length on stop tokens are free.
        restore_when_all_masked: ``[max requests]`` int32: rows whose stop tokens stay if nothing else is left.
    """

    def listed(ids: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return ids.index_select(0, rows_of), columns(ids.shape[1], ids) < count.index_select(0, rows_of).unsqueeze(1)

    allowed, valid = listed(allowed_ids, num_allowed)
    limited = (num_allowed.index_select(0, rows_of) > 0).unsqueeze(1)
    logits.masked_fill_(limited & ~chosen(allowed, valid, vocabulary), -torch.inf)

    biased, valid = listed(biased_ids, num_biased)
    added = torch.where(valid, biases.index_select(0, rows_of), 0.0).to(logits.dtype)
    logits.scatter_add_(1, torch.where(valid, biased, 0).long(), added)

    stops, valid = listed(stop_ids, num_stops)
    early = (positions + 1 < min_lens.index_select(0, rows_of)).unsqueeze(1)
    banned = chosen(stops, valid & early, vocabulary)
    if CHECK_ALL_MASKED_ROWS:
        nothing_left = logits.masked_fill(banned, -torch.inf).amax(1) == -torch.inf
        restored = nothing_left & (restore_when_all_masked.index_select(0, rows_of) != 0)
        banned &= ~(restored.unsqueeze(1) & logits.isfinite())
    logits.masked_fill_(banned, -torch.inf)


@Launched
def bad_words(
    grid: Grid,
    logits: torch.Tensor,
    logits_stride: int,
    rows_of: torch.Tensor,
    word_token_ids: torch.Tensor,
    word_token_ids_stride: int,
    offsets: torch.Tensor,
    offsets_stride: int,
    num_words: torch.Tensor,
    all_token_ids: torch.Tensor,
    all_token_ids_stride: int,
    prompt_len: torch.Tensor,
    total_len: torch.Tensor,
    input_ids: torch.Tensor,
    local_pos: torch.Tensor,
) -> None:
    """Exclude the last token of a word whose other tokens are the end of the output.

    Args:
        word_token_ids: ``[max requests, most tokens]`` int32, the tokens of a request's words one after the other.
        offsets: ``[max requests, most words + 1]`` int32, where its words begin, and the end of the last one.
        num_words: ``[max requests]`` int32; the largest number in the batch is ``grid[1]``.
    """
    rows, most = grid
    vocabulary = logits.shape[1]
    tokens = word_token_ids.index_select(0, rows_of)
    width = tokens.shape[1]
    valid = columns(most, tokens) < num_words.index_select(0, rows_of).unsqueeze(1)
    ends = torch.where(valid, offsets[:, 1 : most + 1].index_select(0, rows_of), width)
    # The word of each place in a row; places behind the last word go to one word more.
    place = columns(width, tokens).expand(rows, width).contiguous()
    word = torch.searchsorted(ends, place, right=True)
    known = word.clamp_max(most - 1)
    end = ends.gather(1, known)
    # A word's token but the last has to be where it would be if the last one came next.
    position = total_len.index_select(0, rows_of).unsqueeze(1) - (end - 1 - place)
    before_output = position < prompt_len.index_select(0, rows_of).unsqueeze(1)
    actual = token_at(all_token_ids, rows_of.unsqueeze(1).expand_as(position).reshape(-1), position.reshape(-1))
    differs = (before_output | (actual.view_as(tokens) != tokens)) & (place < end - 1)
    misses = torch.zeros((rows, most + 1), dtype=torch.int32, device=tokens.device)
    misses.scatter_add_(1, word, differs.to(torch.int32))
    complete = valid & (misses[:, :most] == 0)
    last = tokens.gather(1, ends.long() - 1)
    logits.masked_fill_(chosen(last, complete, vocabulary), -torch.inf)


@Launched
def grammar_bitmask(
    grid: Grid,
    logits: torch.Tensor,
    logits_stride: int,
    rows: torch.Tensor,
    cu_num_logits: torch.Tensor,
    bitmask: torch.Tensor,
    bitmask_stride: int,
    vocabulary: int,
    MASK_STRIDE: int,
    BLOCK_SIZE: int,
) -> None:
    """Exclude tokens whose bit is 0.

    Args:
        rows: ``[n]`` int32, the row of the logits that each row of `bitmask` is for.
    """
    masks = torch.empty((logits.shape[0], bitmask.shape[1]), dtype=torch.int32, device=bitmask.device)
    masks.index_copy_(0, rows.long(), bitmask)  # the kernel wants mask and logits in the same row
    apply_grammar_bitmask(logits, masks, rows)


@Launched
def num_nans(
    grid: Grid, logits: torch.Tensor, logits_stride: int, counts: torch.Tensor, vocabulary: int, BLOCK_SIZE: int
) -> None:
    """How many logits of each row are no number, into `counts` ``[rows]`` int32."""
    counts.copy_(logits.isnan().sum(1))
