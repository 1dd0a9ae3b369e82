"""What vLLM's draft proposer launches, on our kernels. Imported once the module of the launchers has executed.

From vLLM 0.30 on the launchers are objects: besides being called they are told, at start, which Triton variants to
compile. Ours are functions with such an attribute. Before, the kernels are launched themselves: see `Launched`.

Kernels are imported where they are launched: every process imports this module, few draft.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from ascend_patch.patches._triton import Launched


def _nothing_to_compile(**_: Any) -> None:
    """Takes what would be compiled ahead."""


def prepare_inputs_padded(
    cu_num_draft_tokens: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    query_start_loc_gpu: torch.Tensor,
    token_indices_to_sample: torch.Tensor,
    num_rejected_tokens_gpu: torch.Tensor,
    num_reqs: int,
) -> None:
    """Fill in the token to draft from and the number of rejected tokens of each of `num_reqs` requests, all int32."""
    from ascend_patch.kernels.eagle_prepare_inputs_padded import eagle_prepare_inputs_padded

    eagle_prepare_inputs_padded(
        cu_num_draft_tokens,
        valid_sampled_tokens_count,
        query_start_loc_gpu[: num_reqs + 1],
        token_indices_to_sample,
        num_rejected_tokens_gpu,
    )


def earliest_prepare_inputs_padded(
    cu_num_draft_tokens: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    query_start_loc_gpu: torch.Tensor,
    token_indices_to_sample: torch.Tensor,
    num_reqs: int,
) -> None:
    """`prepare_inputs_padded` of vLLM 0.13, which has no use for the number of rejected tokens."""
    rejected = torch.empty_like(token_indices_to_sample)
    prepare_inputs_padded(
        cu_num_draft_tokens,
        valid_sampled_tokens_count,
        query_start_loc_gpu,
        token_indices_to_sample,
        rejected,
        num_reqs,
    )


def prepare_next_token_padded(
    sampled_token_ids: torch.Tensor,
    discard_request_mask: torch.Tensor,
    backup_next_token_ids: torch.Tensor,
    next_token_ids: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    vocab_size: int,
    num_sampled_tokens_per_req: int,
    num_reqs: int,
    stride_sampled_token_ids: int,
    *,
    BLOCK_SIZE_TOKENS: int,
) -> None:
    """Fill in the token that drafting goes on from and the number of valid ones; the last four are Triton's affair."""
    from ascend_patch.kernels.eagle_prepare_next_token_padded import eagle_prepare_next_token_padded

    eagle_prepare_next_token_padded(
        sampled_token_ids,
        discard_request_mask,
        backup_next_token_ids,
        next_token_ids,
        valid_sampled_tokens_count,
        vocab_size,
    )


def step_metadata(
    positions_1d: torch.Tensor,
    block_table_tensor: torch.Tensor,
    seq_lens: torch.Tensor,
    block_size: int,
    max_model_len: int,
    out_clamped_positions: torch.Tensor,
    out_slot_mapping: torch.Tensor,
    input_batch_size: int | None = None,
) -> None:
    """One draft step ahead: positions, sequence lengths and cache slots of ``[requests]``."""
    padded = positions_1d.shape[0] if input_batch_size is None else input_batch_size
    from ascend_patch.kernels.eagle_step_metadata import eagle_step_metadata

    eagle_step_metadata(
        positions_1d,
        block_table_tensor,
        seq_lens,
        block_size,
        max_model_len,
        out_clamped_positions,
        out_slot_mapping[:padded],
    )


def copy_and_expand(
    target_token_ids_ptr: torch.Tensor,
    target_positions_ptr: torch.Tensor,
    next_token_ids_ptr: torch.Tensor,
    out_input_ids_ptr: torch.Tensor,
    out_positions_ptr: torch.Tensor,
    out_is_rejected_token_mask_ptr: torch.Tensor,
    out_is_masked_token_mask_ptr: torch.Tensor,
    out_new_token_indices_ptr: torch.Tensor,
    out_hidden_state_mapping_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
    query_end_loc_ptr: torch.Tensor,
    padding_token_id: int,
    parallel_drafting_token_id: int,
    total_input_tokens: int,
    num_padding_slots_per_request: int,
    shift_input_ids: bool,
    *,
    BLOCK_SIZE_TOKENS: int,
    batch_size: int,
    num_blocks: int,
) -> None:
    """Lay out the draft model's input: of each request its valid tokens, the one sampled last, slots for parallel
    drafting, and padding in place of rejected tokens.

    In PyTorch, without asking the device for a size: how many tokens come out follows from what the host knows.

    Args:
        target_token_ids_ptr: ``[total_input_tokens]``, as `target_positions_ptr`.
        next_token_ids_ptr: ``[batch_size]``.
        out_input_ids_ptr: at least the tokens that come out, as the other three of ``out_``.
        out_new_token_indices_ptr: ``[batch_size * num_padding_slots_per_request]``.
        out_hidden_state_mapping_ptr: ``[total_input_tokens]``, filled with `shift_input_ids` only.
        query_start_loc_ptr: ``[batch_size + 1]``.
        query_end_loc_ptr: ``[batch_size]``, the last token of each request that was not rejected.
    """
    slots, shift = num_padding_slots_per_request, int(shift_input_ids)
    device = target_token_ids_ptr.device
    starts, ends = query_start_loc_ptr[:batch_size].long(), query_end_loc_ptr[:batch_size].long()
    request = torch.arange(batch_size, device=device)
    out_starts = starts + request * (slots - shift)
    valid = ends - starts + 1 - shift
    place = torch.arange(total_input_tokens + batch_size * (slots - shift), device=device)
    of = torch.searchsorted(out_starts, place, right=True) - 1
    inside = place - out_starts[of]
    behind_valid = inside - valid[of]

    tokens = target_token_ids_ptr[(starts[of] + shift + inside).clamp_max(total_input_tokens - 1)]
    tokens = torch.where(behind_valid == 0, next_token_ids_ptr[of].to(tokens.dtype), tokens)
    drafted = (behind_valid > 0) & (behind_valid < slots)
    rejected = behind_valid >= slots
    tokens = tokens.masked_fill(drafted, parallel_drafting_token_id).masked_fill(rejected, padding_token_id)
    positions = (target_positions_ptr[starts][of] + inside).masked_fill(rejected, 0)

    count = place.shape[0]
    out_input_ids_ptr[:count] = tokens
    out_positions_ptr[:count] = positions
    out_is_rejected_token_mask_ptr[:count] = rejected
    out_is_masked_token_mask_ptr[:count] = drafted
    new = (out_starts + valid).unsqueeze(1) + torch.arange(slots, device=device)
    out_new_token_indices_ptr[: batch_size * slots] = new.flatten()
    if shift_input_ids:
        source = torch.arange(total_input_tokens, device=device)
        owner = torch.searchsorted(starts, source, right=True) - 1
        out_hidden_state_mapping_ptr[:total_input_tokens] = out_starts[owner] + source - starts[owner]


def _on_its_own_grid(launch: Callable[..., None]) -> Launched:
    """As vLLM launches up to 0.29; our kernels find their own grid."""

    @Launched
    @wraps(launch)
    def launched(grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        launch(*arguments, **options)

    return launched


earliest_prepare_inputs_padded_on_grid = _on_its_own_grid(earliest_prepare_inputs_padded)
prepare_inputs_padded_on_grid = _on_its_own_grid(prepare_inputs_padded)
prepare_next_token_padded_on_grid = _on_its_own_grid(prepare_next_token_padded)


@Launched
def copy_and_expand_on_grid(grid: tuple[int, int], *arguments: Any, **options: Any) -> None:
    batch_size, num_blocks = grid
    copy_and_expand(*arguments, batch_size=batch_size, num_blocks=num_blocks, **options)


_LAUNCHERS: tuple[Any, ...] = (prepare_inputs_padded, prepare_next_token_padded, copy_and_expand)
for _launcher in _LAUNCHERS:
    _launcher.register_warmup = _nothing_to_compile
