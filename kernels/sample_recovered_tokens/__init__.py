"""Speculative decoding: the tokens that take the place of rejected draft tokens."""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="sample_recovered_tokens",
    why="vLLM has it in Triton only; in PyTorch it is five passes over matrices of draft tokens by vocabulary.",
    replaces=9,
    entries=("sample_recovered_tokens",),
    parameters=(
        *("ptr", "ptr", "ptr", "ptr", "ptr", "ptr"),
        *("i32", "i32", "i32", "i64", "i64", "i64"),
    ),
)


def check(
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor,
    q: torch.Tensor,
) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, a layout.
    """
    for name, vector in (("cu_num_draft_tokens", cu_num_draft_tokens), ("draft_token_ids", draft_token_ids)):
        if vector.dtype != torch.int32:
            raise TypeError(f"sample_recovered_tokens: {name} is {vector.dtype}, it must be torch.int32")
        if vector.dim() != 1 or not vector.is_contiguous():
            raise ValueError(f"sample_recovered_tokens: {name} must be a contiguous vector")
    tokens, requests = draft_token_ids.shape[0], cu_num_draft_tokens.shape[0]
    vocab = target_probs.shape[-1]
    for name, matrix, rows in (
        ("target_probs", target_probs, tokens),
        ("draft_probs", draft_probs, tokens),
        ("q", q, requests),
    ):
        if matrix is None:
            continue
        if matrix.dtype != torch.float32:
            raise TypeError(f"sample_recovered_tokens: {name} is {matrix.dtype}, it must be torch.float32")
        if matrix.shape != (rows, vocab) or (vocab > 1 and matrix.stride(1) != 1):
            raise ValueError(
                f"sample_recovered_tokens: {name} must have {rows} contiguous rows of {vocab}, "
                f"not {tuple(matrix.shape)}"
            )
    if vocab == 0:
        raise ValueError("sample_recovered_tokens: the vocabulary is empty")


def reference(
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor,
    q: torch.Tensor,
) -> torch.Tensor:
    """The same in PyTorch."""
    if draft_token_ids.shape[0] == 0:
        return torch.empty_like(draft_token_ids)
    order = torch.arange(draft_token_ids.shape[0], dtype=torch.int32, device=draft_token_ids.device)
    requests = torch.searchsorted(cu_num_draft_tokens, order, right=True)
    if draft_probs is None:
        drafts = draft_token_ids.to(torch.int64).unsqueeze(1)
        places = torch.arange(target_probs.shape[1], device=target_probs.device)
        probs = target_probs.masked_fill(places == drafts, 0.0)
    else:
        probs = (target_probs - draft_probs).clamp_min(0.0)
    return (probs * q.reciprocal()[requests]).argmax(1).to(torch.int32)


def launch(
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor,
    q: torch.Tensor,
) -> torch.Tensor:
    """One launch; the cores take draft tokens in turn."""
    recovered = torch.empty_like(draft_token_ids)
    tokens, requests = draft_token_ids.shape[0], cu_num_draft_tokens.shape[0]
    if tokens:
        loading.launch(
            KERNEL,
            "sample_recovered_tokens",
            min(loading.vector_cores(), tokens),
            recovered,
            cu_num_draft_tokens,
            draft_token_ids,
            draft_probs,
            target_probs,
            q,
            requests,
            tokens,
            target_probs.shape[1],
            0 if draft_probs is None else draft_probs.stride(0),
            target_probs.stride(0),
            q.stride(0),
        )
    return recovered


def fake(
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor,
    q: torch.Tensor,
) -> torch.Tensor:
    """The result, not filled in."""
    return torch.empty_like(draft_token_ids)


sample_recovered_tokens = operators.define(
    KERNEL,
    "sample_recovered_tokens(Tensor cu_num_draft_tokens, Tensor draft_token_ids, Tensor? draft_probs, "
    "Tensor target_probs, Tensor q) -> Tensor",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Samples, for every draft token, the token that follows if it is rejected: from max(target - draft, 0), by the
exponential race ``argmax(p / q)``.

The arguments are what ``vllm.v1.sample.rejection_sampler.sample_recovered_tokens`` has when it launches its Triton
kernel. It takes `q` before the reciprocal, which saves a launch and a pass.

Args:
    cu_num_draft_tokens: ``[requests]`` int32: draft tokens up to and with each request; the last is the number of all.
    draft_token_ids: ``[tokens]`` int32; -1 is padding.
    draft_probs: ``[tokens, vocabulary]`` float32, or None if the draft has no probabilities (n-gram): then the draft
        token itself cannot be sampled.
    target_probs: ``[tokens, vocabulary]`` float32.
    q: ``[requests, vocabulary]`` float32, exponentially distributed. float64 (``use_fp64_gumbel``) is refused: vector
        cores have no such arithmetic.

Returns:
    ``[tokens]`` int32; the first of equal scores, as in vLLM.

Cost per draft token and token of the vocabulary: 12 bytes, 8 without draft probabilities. The minimum reads `q` once
per request instead of once per draft token: 8 + 4 / k and 4 + 4 / k bytes for k draft tokens. At k = 3 the kernel asks
for 1.29 and 1.5 times that, though later readings of `q` can come from the L2 cache. 5 vector instructions per 64
elements, 4 without draft probabilities. One launch for 9 in PyTorch, 12 without draft probabilities (where there is
Triton: 2).
"""
