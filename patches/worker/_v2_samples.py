"""Model runner V2's sampling and log-probabilities, in PyTorch operators and our kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import pad

from ascend_patch.kernels.token_logprob_and_rank import token_logprob_and_rank
from ascend_patch.patches._triton import Launched
from ascend_patch.patches.worker._v2_inputs import Grid, token_at, tokens_of_requests
from ascend_patch.patches.worker._v2_logits import columns

# 1 - LARGEST_UNIFORM is the smallest number that the logarithm is taken of: 2 ** -24.
LARGEST_UNIFORM = 1.0 - 2.0**-24


def _int32(value: int) -> int:
    """The number with the same 32 bits that int32 has."""
    return value - (1 << 32) if value >> 31 else value


# MurmurHash3's 32-bit variant (public domain, Austin Appleby); int32 arithmetic wraps as that on unsigned numbers does.
_C1, _C2, _C3 = _int32(0xCC9E2D51), _int32(0x1B873593), _int32(0xE6546B64)
_F1, _F2 = _int32(0x85EBCA6B), _int32(0xC2B2AE35)
_HASHED_BYTES = 16


def _shifted_right(value: torch.Tensor, by: int) -> torch.Tensor:
    return (value >> by) & ((1 << (32 - by)) - 1)


def _rotated(value: torch.Tensor, by: int) -> torch.Tensor:
    return (value << by) | _shifted_right(value, 32 - by)


def _scrambled(key: torch.Tensor) -> torch.Tensor:
    return _rotated(key * _C1, 15) * _C2


def _mixed(state: torch.Tensor, scrambled_key: torch.Tensor) -> torch.Tensor:
    return _rotated(state ^ scrambled_key, 13) * 5 + _C3


@lru_cache(maxsize=4)
def _scrambled_tokens(vocabulary: int, device: torch.device) -> torch.Tensor:
    # Outside inference mode, so that it can be used in any mode.
    with torch.inference_mode(False):
        return _scrambled(torch.arange(vocabulary, dtype=torch.int32, device=device))


def hashed(seeds: torch.Tensor, positions: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """MurmurHash3 of a request's seed (two words), a position and every token id, as V2 draws its random bits.

    Args:
        seeds: ``[rows]`` int64.
        positions: ``[rows]`` int64, below 2 ** 31.

    Returns:
        ``[rows, vocabulary]`` int32, all 32 bits of it random.
    """
    low_and_high = seeds.contiguous().view(torch.int32).view(-1, 2)
    state = torch.zeros_like(positions, dtype=torch.int32)
    for key in (low_and_high[:, 0], low_and_high[:, 1], positions.to(torch.int32)):
        state = _mixed(state, _scrambled(key))
    bits = _mixed(state.unsqueeze(1), _scrambled_tokens(vocabulary, seeds.device)) ^ _HASHED_BYTES
    bits = (bits ^ _shifted_right(bits, 16)) * _F1
    bits = (bits ^ _shifted_right(bits, 13)) * _F2
    return bits ^ _shifted_right(bits, 16)


def gumbel_noise(bits: torch.Tensor) -> torch.Tensor:
    """Gumbel noise of 32 random bits each; the large values, which decide, come from uniform numbers near 0."""
    high, low = _shifted_right(bits, 16).float(), (bits & 0xFFFF).float()
    uniform = high * 2.0**-16 + (low + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-uniform.clamp_max(LARGEST_UNIFORM)))


@Launched
def gumbel_sample(
    grid: Grid,
    local_argmax: torch.Tensor,
    local_argmax_stride: int,
    local_max: torch.Tensor,
    local_max_stride: int,
    logits_cache: None,
    logits_cache_stride_0: int,
    logits_cache_stride_1: int,
    logits_cache_col: None,
    logits_cache_source: None,
    logits_cache_source_stride: int,
    logits: torch.Tensor,
    logits_stride: int,
    rows_of: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
    temperatures: torch.Tensor,
    vocabulary: int,
    BLOCK_SIZE: int,
    IS_DRAFTING: bool,
    APPLY_TEMPERATURE: bool,
    USE_FP64: bool,
    PER_TOKEN_COL: bool,
) -> None:
    """Sample by the largest logit plus Gumbel noise; rows of temperature 0 get no noise.

    Args:
        local_argmax: ``[rows, blocks]`` int64. The kernel leaves the best token of each block; here the best of the
            whole row goes into the first one.
        local_max: ``[rows, blocks]`` float32, its value; minus infinity in the other blocks.
        logits: ``[rows, vocabulary]``, the temperature already applied.
        seeds: ``[max requests]`` int64; `temperatures` ``[max requests]`` float32.
        positions: ``[rows]`` int64, the position whose successor is sampled.
    """
    noise = gumbel_noise(hashed(seeds.index_select(0, rows_of), positions, vocabulary))
    noise.masked_fill_((temperatures.index_select(0, rows_of) == 0).unsqueeze(1), 0)
    best, token = noise.add_(logits).max(1)
    local_max.fill_(-torch.inf)
    local_max[:, 0] = best
    local_argmax[:, 0] = token


def greedy_without_noise(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Sampler._sample_random`: no noise is drawn for a batch in which all requests are greedy."""

    def _sample_random(
        self: Any,
        processed_logits: torch.Tensor,
        expanded_idx_mapping: torch.Tensor,
        idx_mapping_np: Any,
        pos: torch.Tensor,
        top_k: torch.Tensor | None,
        top_p: torch.Tensor | None,
        *rest: Any,
    ) -> Any:
        if top_k is None and top_p is None and not self.sampling_states.temperature.np[idx_mapping_np].any():
            return processed_logits.argmax(-1), processed_logits
        return original(self, processed_logits, expanded_idx_mapping, idx_mapping_np, pos, top_k, top_p, *rest)

    return _sample_random


@Launched
def token_logprobs(
    grid: Grid,
    output: torch.Tensor,
    logits: torch.Tensor,
    logits_stride: int,
    token_ids: torch.Tensor,
    token_ids_stride: int,
    num_logprobs: int,
    vocabulary: int,
    BLOCK_SIZE: int,
    TOPK_BLOCK_SIZE: int,
) -> None:
    """The log-probabilities of `token_ids` ``[rows, n]`` int64, into `output` ``[rows, n]`` float32."""
    output.copy_(token_logprob_and_rank(logits, token_ids)[0])


@Launched
def ranks(
    grid: Grid,
    output: torch.Tensor,
    logits: torch.Tensor,
    logits_stride: int,
    token_ids: torch.Tensor,
    vocabulary: int,
    BLOCK_SIZE: int,
) -> None:
    """How many logits are at least that of `token_ids` ``[rows]``, into `output` ``[rows]`` int64."""
    output.copy_(token_logprob_and_rank(logits, token_ids.long().unsqueeze(1))[1])


@Launched
def fill_logprob_token_ids(
    grid: Grid,
    out_ids: torch.Tensor,
    out_ids_stride: int,
    out_valid: torch.Tensor,
    out_valid_stride: int,
    sampled: torch.Tensor,
    best_ids: torch.Tensor,
    best_ids_stride: int,
    rows_of: torch.Tensor,
    num_wanted: torch.Tensor,
    wanted_ids: torch.Tensor,
    wanted_ids_stride: int,
    NUM_TOPK: int,
    PADDED_COLS: int,
) -> None:
    """The tokens whose log-probabilities a row reports: the sampled one, then those it asked for, or else the best.

    Args:
        out_ids: ``[rows, 1 + columns]`` int64, `out_valid` likewise in bool; both are zero so far.
        best_ids: ``[rows, NUM_TOPK]``; anything if that is 0.
        num_wanted: ``[max requests]`` int32, how many entries of a row of `wanted_ids` count.
    """
    out_ids[:, 0] = sampled
    out_valid[:, 0] = True
    width = out_ids.shape[1] - 1
    count = num_wanted.index_select(0, rows_of).unsqueeze(1)
    wanted = _fitted(wanted_ids.index_select(0, rows_of), width)
    best = _fitted(best_ids[: grid[0], :NUM_TOPK], width) if NUM_TOPK else torch.zeros_like(wanted)
    valid = columns(width, out_ids) < torch.where(count > 0, count, NUM_TOPK)
    out_ids[:, 1:] = torch.where(valid, torch.where(count > 0, wanted, best), 0)
    out_valid[:, 1:] = valid


def _fitted(ids: torch.Tensor, width: int) -> torch.Tensor:
    return pad(ids, (0, width - ids.shape[1])) if ids.shape[1] < width else ids[:, :width]


@Launched
def prompt_logprobs_token_ids(
    grid: Grid,
    output: torch.Tensor,
    query_start_loc: torch.Tensor,
    idx_mapping: torch.Tensor,
    num_computed_tokens: torch.Tensor,
    all_token_ids: torch.Tensor,
    all_token_ids_stride: int,
    BLOCK_SIZE: int,
) -> None:
    """The token that follows each of the batch's tokens, into `output` ``[tokens]`` int64."""
    order, request = tokens_of_requests(query_start_loc, grid[0], output.shape[0])
    before_first = num_computed_tokens.index_select(0, idx_mapping) - query_start_loc[: grid[0]]
    output.copy_(
        token_at(all_token_ids, idx_mapping.index_select(0, request), before_first.index_select(0, request) + order + 1)
    )
