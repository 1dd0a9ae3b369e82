"""Speculative decoding: which draft tokens stay."""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="rejection_sample",
    why="vLLM has it as two Triton kernels only; in PyTorch a decision per draft token is a string of small operators.",
    replaces=41,
    entries=("rejection_sample",),
    parameters=(
        *("ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"),
        *("i32", "i32", "i32", "i32", "i64", "i64"),
    ),
)

MAX_DRAFT_TOKENS = 128
"""Draft tokens of one request (kMaxDrafts in the source, ``MAX_SPEC_LEN`` in vLLM)."""
PLACEHOLDER = -1
_ANY_VOCABULARY = 2**31 - 1


def check(
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor | None,
    target_argmax: torch.Tensor | None,
    bonus_token_ids: torch.Tensor,
    recovered_token_ids: torch.Tensor | None,
    uniform_probs: torch.Tensor | None,
    temperature: torch.Tensor | None,
    synthetic_rates: torch.Tensor | None,
    max_spec_len: int,
) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, a layout, a missing argument, more draft tokens than `MAX_DRAFT_TOKENS`.
    """
    if not 0 <= max_spec_len <= MAX_DRAFT_TOKENS:
        raise ValueError(f"rejection_sample: max_spec_len is {max_spec_len}, it must be 0 to {MAX_DRAFT_TOKENS}")
    if temperature is None and target_argmax is None:
        raise ValueError("rejection_sample: without temperature all requests are greedy, which needs target_argmax")
    if temperature is not None and (recovered_token_ids is None or uniform_probs is None or target_probs is None):
        raise ValueError(
            "rejection_sample: random requests need target_probs, recovered_token_ids and uniform_probs; "
            "leave out temperature if all are greedy"
        )
    if synthetic_rates is not None and uniform_probs is None:
        raise ValueError("rejection_sample: synthetic_rates are compared with uniform_probs, which are missing")
    requests, tokens = cu_num_draft_tokens.shape[0], draft_token_ids.shape[0]
    for name, tensor, size, dtypes in (
        ("cu_num_draft_tokens", cu_num_draft_tokens, requests, (torch.int32,)),
        ("draft_token_ids", draft_token_ids, tokens, (torch.int32,)),
        ("target_argmax", target_argmax, tokens, (torch.int64,)),
        ("bonus_token_ids", bonus_token_ids, requests, (torch.int32,)),
        ("recovered_token_ids", recovered_token_ids, tokens, (torch.int32,)),
        ("uniform_probs", uniform_probs, tokens, (torch.float32, torch.float64)),
        ("temperature", temperature, requests, (torch.float32,)),
        ("synthetic_rates", synthetic_rates, max_spec_len, (torch.float32,)),
    ):
        if tensor is None:
            continue
        if tensor.dtype not in dtypes:
            raise TypeError(f"rejection_sample: {name} is {tensor.dtype}, it must be {' or '.join(map(str, dtypes))}")
        if tensor.shape not in ((size,), (size, 1)) or not tensor.is_contiguous():
            raise ValueError(
                f"rejection_sample: {name} must be a contiguous vector of {size}, not {tuple(tensor.shape)}"
            )
    for name, matrix in (("draft_probs", draft_probs), ("target_probs", target_probs)):
        if matrix is None:
            continue
        if matrix.dtype != torch.float32:
            raise TypeError(f"rejection_sample: {name} is {matrix.dtype}, it must be torch.float32")
        if matrix.dim() != 2 or matrix.shape[0] != tokens or (matrix.shape[1] > 1 and matrix.stride(1) != 1):
            raise ValueError(f"rejection_sample: {name} must have {tokens} contiguous rows, not {tuple(matrix.shape)}")
    if draft_probs is not None and target_probs is not None and draft_probs.shape != target_probs.shape:
        raise ValueError(
            f"rejection_sample: draft_probs are {tuple(draft_probs.shape)}, target_probs {tuple(target_probs.shape)}"
        )


def reference(
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor | None,
    target_argmax: torch.Tensor | None,
    bonus_token_ids: torch.Tensor,
    recovered_token_ids: torch.Tensor | None,
    uniform_probs: torch.Tensor | None,
    temperature: torch.Tensor | None,
    synthetic_rates: torch.Tensor | None,
    max_spec_len: int,
) -> torch.Tensor:
    """The same in PyTorch: a table of requests by places."""
    device = draft_token_ids.device
    requests, tokens = cu_num_draft_tokens.shape[0], draft_token_ids.shape[0]
    begins = torch.nn.functional.pad(cu_num_draft_tokens[:-1], (1, 0))[:requests]
    places = torch.arange(max_spec_len + 1, device=device)
    counts = (cu_num_draft_tokens - begins).unsqueeze(1)
    exists = places < counts
    # Places without a draft token look at any other one.
    index = (begins.unsqueeze(1) + places).clamp_max(max(tokens - 1, 0))

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values[index] if tokens else values.new_zeros(exists.shape)

    drafts = spread(draft_token_ids)
    is_token = drafts >= 0 if target_probs is None else (drafts >= 0) & (drafts < target_probs.shape[1])
    stays = torch.zeros_like(exists)
    others = torch.zeros_like(drafts)
    if target_probs is not None and recovered_token_ids is not None and uniform_probs is not None:
        column = draft_token_ids.clamp(0, max(target_probs.shape[1] - 1, 0)).to(torch.int64).unsqueeze(1)
        ratio = target_probs.gather(1, column).squeeze(1)
        possible = torch.ones_like(ratio, dtype=torch.bool)
        if draft_probs is not None:
            chance = draft_probs.gather(1, column).squeeze(1)
            possible = chance > 0
            ratio = ratio / chance
        stays = is_token & spread(possible & (ratio >= uniform_probs.view(-1)))
        others = spread(recovered_token_ids)
    if target_argmax is not None:
        best = spread(target_argmax).to(torch.int32)
        if temperature is None:
            greedy = torch.ones_like(exists)
        else:
            greedy = (temperature.view(-1, 1) == 0).expand_as(exists)
        stays = torch.where(greedy, drafts == best, stays)
        others = torch.where(greedy, best, others)
    if synthetic_rates is not None and uniform_probs is not None:
        rates = torch.nn.functional.pad(synthetic_rates.view(-1), (0, 1))
        stays = is_token & (spread(uniform_probs.view(-1)) < rates)
    chosen = torch.where(stays, drafts, others)
    chosen = torch.where(places == counts, bonus_token_ids.view(-1, 1), chosen)
    # A place is reached if everything before it stays.
    reached = torch.nn.functional.pad(stays[:, :-1], (1, 0), value=True).to(torch.int32).cumprod(1) > 0
    return torch.where(reached & (places <= counts), chosen, PLACEHOLDER)


def launch(
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor | None,
    target_argmax: torch.Tensor | None,
    bonus_token_ids: torch.Tensor,
    recovered_token_ids: torch.Tensor | None,
    uniform_probs: torch.Tensor | None,
    temperature: torch.Tensor | None,
    synthetic_rates: torch.Tensor | None,
    max_spec_len: int,
) -> torch.Tensor:
    """One launch; the cores take requests in turn."""
    requests = cu_num_draft_tokens.shape[0]
    output = torch.empty((requests, max_spec_len + 1), dtype=torch.int32, device=draft_token_ids.device)
    if requests:
        loading.launch(
            KERNEL,
            "rejection_sample",
            min(loading.vector_cores(), requests),
            output,
            cu_num_draft_tokens,
            draft_token_ids,
            draft_probs,
            target_probs,
            target_argmax,
            bonus_token_ids,
            recovered_token_ids,
            uniform_probs,
            temperature,
            synthetic_rates,
            requests,
            max_spec_len,
            _ANY_VOCABULARY if target_probs is None else target_probs.shape[1],
            int(uniform_probs is not None and uniform_probs.dtype == torch.float64),
            0 if draft_probs is None else draft_probs.stride(0),
            0 if target_probs is None else target_probs.stride(0),
        )
    return output


def fake(
    cu_num_draft_tokens: torch.Tensor,
    draft_token_ids: torch.Tensor,
    draft_probs: torch.Tensor | None,
    target_probs: torch.Tensor | None,
    target_argmax: torch.Tensor | None,
    bonus_token_ids: torch.Tensor,
    recovered_token_ids: torch.Tensor | None,
    uniform_probs: torch.Tensor | None,
    temperature: torch.Tensor | None,
    synthetic_rates: torch.Tensor | None,
    max_spec_len: int,
) -> torch.Tensor:
    """The result, not filled in."""
    return draft_token_ids.new_empty((cu_num_draft_tokens.shape[0], max_spec_len + 1))


rejection_sample = operators.define(
    KERNEL,
    "rejection_sample(Tensor cu_num_draft_tokens, Tensor draft_token_ids, Tensor? draft_probs, Tensor? target_probs, "
    "Tensor? target_argmax, Tensor bonus_token_ids, Tensor? recovered_token_ids, Tensor? uniform_probs, "
    "Tensor? temperature, Tensor? synthetic_rates, int max_spec_len) -> Tensor",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Accepts or rejects the draft tokens of every request (https://arxiv.org/abs/2211.17192).

The arguments are those of ``rejection_greedy_sample_kernel`` and ``rejection_random_sample_kernel`` in
``vllm.v1.sample.rejection_sampler``, both done by one launch, which also fills the output: the placeholders before and
the comparison of the temperature are not launches of their own.

Args:
    cu_num_draft_tokens: ``[requests]`` int32: draft tokens up to and with each request (``SpecDecodeMetadata``).
    draft_token_ids: ``[tokens]`` int32; a negative one is padding and rejected.
    draft_probs: ``[tokens, vocabulary]`` float32, or None if the draft has no probabilities: then each is 1.
    target_probs: ``[tokens, vocabulary]`` float32; None if all requests are greedy.
    target_argmax: ``[tokens]`` int64; None if no request is greedy.
    bonus_token_ids: ``[requests]`` or ``[requests, 1]`` int32: what follows if all draft tokens stay.
    recovered_token_ids: ``[tokens]`` int32 of `sample_recovered_tokens`; None if all requests are greedy.
    uniform_probs: ``[tokens]`` float64 (as vLLM draws them) or float32 in [0, 1); None if all requests are greedy and
        `synthetic_rates` is None. A float64 is compared exactly, without float64 arithmetic on the device.
    temperature: ``[requests]`` float32: 0 is greedy; None if all requests are.
    synthetic_rates: ``[max_spec_len]`` float32: accept with these probabilities, by place, instead; or None.
    max_spec_len: the largest number of draft tokens of a request, at most 128.

Returns:
    ``[requests, max_spec_len + 1]`` int32: the tokens that stay, then the recovered or the bonus token, then -1.

Cost: 4 bytes per draft token and at most 20 more (argmax, or recovered token, uniform number and two probabilities,
which are fetched 32 bytes each), and 4 per element of the output. Bound by latency: two rounds of transfers per
request; the probabilities of a request are on their way together. One launch for 41 in PyTorch, 27 if all requests are
greedy (where there is Triton: 4 and 2).
"""
