"""What vLLM's rejection sampler calls, on our kernels. Imported once that module has executed."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.rejection_sampler import generate_uniform_probs


def rejection_sample(
    draft_token_ids: torch.Tensor,
    num_draft_tokens: list[int],
    max_spec_len: int,
    cu_num_draft_tokens: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_logits: torch.Tensor,
    bonus_token_ids: torch.Tensor,
    sampling_metadata: Any,
    synthetic_mode: bool = False,
    synthetic_conditional_rates: torch.Tensor | None = None,
    use_fp64_gumbel: bool = False,
    fly_window_size: int | None = None,
    fly_entropy_threshold: float | None = None,
    fly_entropy_top_k: int = 3,
) -> torch.Tensor:
    """Greedy and random requests of a batch in one launch.

    Args:
        draft_token_ids: ``[tokens]`` int32, as `draft_probs` ``[tokens, vocab_size]`` and `target_logits` in the order
            of the requests.
        num_draft_tokens: of each request, on the host.
        cu_num_draft_tokens: ``[requests]`` int32, running total.
        bonus_token_ids: ``[requests, 1]`` int32.
        fly_window_size: since 0.33, and the two after it.

    Returns:
        ``[requests, max_spec_len + 1]`` int32, -1 behind the last token of each request.

    Raises:
        NotImplementedError: for FLy acceptance.
    """
    if fly_window_size is not None:
        raise NotImplementedError(
            "FLy acceptance is a Triton kernel that ascend_patch has no counterpart for: leave it out of the"
            " speculative configuration."
        )
    return _accept(
        draft_token_ids,
        num_draft_tokens,
        max_spec_len,
        cu_num_draft_tokens,
        draft_probs,
        target_logits,
        None if sampling_metadata.all_greedy else target_logits.softmax(dim=-1, dtype=torch.float32),
        bonus_token_ids,
        sampling_metadata,
        synthetic_conditional_rates if synthetic_mode else None,
        use_fp64_gumbel,
    )


def rejection_sample_of_probs(
    draft_token_ids: torch.Tensor,
    num_draft_tokens: list[int],
    max_spec_len: int,
    cu_num_draft_tokens: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor,
    bonus_token_ids: torch.Tensor,
    sampling_metadata: Any,
) -> torch.Tensor:
    """`rejection_sample` of vLLM up to 0.15, which takes the softmax before the call: `target_probs` is float32."""
    return _accept(
        draft_token_ids,
        num_draft_tokens,
        max_spec_len,
        cu_num_draft_tokens,
        draft_probs,
        target_probs,
        None if sampling_metadata.all_greedy else target_probs,
        bonus_token_ids,
        sampling_metadata,
    )


def _accept(
    draft_token_ids: torch.Tensor,
    num_draft_tokens: list[int],
    max_spec_len: int,
    cu_num_draft_tokens: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_scores: torch.Tensor,
    target_probs: torch.Tensor | None,
    bonus_token_ids: torch.Tensor,
    sampling_metadata: Any,
    synthetic_rates: torch.Tensor | None = None,
    use_fp64_gumbel: bool = False,
) -> torch.Tensor:
    """What all versions do; the largest of `target_scores` is the greedy token."""
    from ascend_patch.kernels.rejection_sample import rejection_sample as launch  # few processes speculate

    uniform_probs = target_argmax = recovered = None
    if synthetic_rates is not None or target_probs is not None:
        uniform_probs = generate_uniform_probs(
            draft_token_ids.shape[0], num_draft_tokens, sampling_metadata.generators, target_scores.device
        )
    if not sampling_metadata.all_random:
        target_argmax = target_scores.argmax(dim=-1)
    if target_probs is not None:
        recovered = sample_recovered_tokens(
            max_spec_len,
            num_draft_tokens,
            cu_num_draft_tokens,
            draft_token_ids,
            draft_probs,
            target_probs,
            sampling_metadata,
            target_scores.device,
            use_fp64_gumbel,
        )
    accepted: torch.Tensor = launch(
        cu_num_draft_tokens,
        draft_token_ids,
        draft_probs,
        target_probs,
        target_argmax,
        bonus_token_ids,
        recovered,
        uniform_probs,
        None if sampling_metadata.all_greedy else sampling_metadata.temperature,
        synthetic_rates,
        max_spec_len,
    )
    return accepted


def sample_recovered_tokens(
    max_spec_len: int,
    num_draft_tokens: list[int],
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor,
    sampling_metadata: Any,
    device: torch.device,
    use_fp64_gumbel: bool = False,
) -> torch.Tensor:
    """What follows each draft token if it is rejected: ``[tokens]`` int32, one distribution per request.

    Raises:
        NotImplementedError: for float64 noise.
    """
    if use_fp64_gumbel:
        raise NotImplementedError("An NPU's vector cores have no float64: leave use_fp64_gumbel out.")
    from ascend_patch.kernels.sample_recovered_tokens import sample_recovered_tokens as launch

    q = torch.empty((len(num_draft_tokens), target_probs.shape[-1]), dtype=torch.float32, device=device)
    q.exponential_()
    for row, generator in sampling_metadata.generators.items():
        # A request without draft tokens must not advance its generator: its other tokens come from it, too.
        if num_draft_tokens[row] > 0:
            q[row].exponential_(generator=generator)
    recovered: torch.Tensor = launch(cu_num_draft_tokens, draft_token_ids, draft_probs, target_probs, q)
    return recovered


def expand_batch_to_tokens(
    x: torch.Tensor, cu_num_tokens: torch.Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    """Each request's value for each of its tokens, without asking the device how many there are.

    Args:
        x: ``[requests]``.
        cu_num_tokens: ``[requests]`` int32, running total.

    Returns:
        ``[num_tokens]``, `replace_to` where `x` is `replace_from`.
    """
    order = torch.arange(num_tokens, dtype=cu_num_tokens.dtype, device=x.device)
    expanded = x[torch.searchsorted(cu_num_tokens, order, right=True)]
    return expanded if replace_from == replace_to else expanded.masked_fill_(expanded == replace_from, replace_to)
