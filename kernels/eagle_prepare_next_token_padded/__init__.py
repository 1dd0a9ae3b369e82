"""The token from which drafting goes on, for each request, and how many of its sampled tokens are valid.

Cost: 4 * columns + 13 bytes per request, which is the minimum; per 64 requests 12 vector instructions per
sampled token and 7 more. It replaces 16 launches (the same in PyTorch, by hostcann's trace); stock vLLM needs Triton.
"""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.arguments import LARGEST_INT32, expect
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="eagle_prepare_next_token_padded",
    why="One launch per sampled batch in the place of vLLM's Triton kernel, which needs Triton for NPUs.",
    replaces=16,
    entries=("eagle_prepare_next_token_padded",),
    parameters=("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"),
)

TILE = 256
"""Requests that one core takes at a time at most (kTile in the source)."""
COLUMNS = 64 * 1024 // 4
"""Sampled tokens per request that fit into the unified buffer (kRowBytes in the source)."""


def check(
    sampled_token_ids: torch.Tensor,
    discard_request_mask: torch.Tensor,
    backup_next_token_ids: torch.Tensor,
    next_token_ids: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    vocab_size: int,
) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: dimensions, layout, a tensor with fewer entries than there are requests, no sampled token per
            request or more than the unified buffer holds, a vocabulary that is empty or beyond int32.
    """
    name = KERNEL.name
    expect(name, "sampled_token_ids", sampled_token_ids, torch.int32, 2, rows_apart=True)
    requests, columns = sampled_token_ids.shape
    expect(name, "discard_request_mask", discard_request_mask, torch.bool, 1, at_least=requests)
    expect(name, "backup_next_token_ids", backup_next_token_ids, torch.int32, 1, at_least=requests)
    expect(name, "next_token_ids", next_token_ids, torch.int32, 1, at_least=requests)
    expect(name, "valid_sampled_tokens_count", valid_sampled_tokens_count, torch.int32, 1, at_least=requests)
    if not 1 <= columns <= COLUMNS:
        raise ValueError(f"{name}: {columns} sampled tokens per request, there must be 1 to {COLUMNS}")
    if requests > 1 and sampled_token_ids.stride(0) < columns:
        raise ValueError(f"{name}: the rows of sampled_token_ids overlap; pass a copy")
    if not 1 <= vocab_size <= LARGEST_INT32:
        raise ValueError(f"{name}: vocab_size is {vocab_size}, it must be 1 to {LARGEST_INT32}")


def reference(
    sampled_token_ids: torch.Tensor,
    discard_request_mask: torch.Tensor,
    backup_next_token_ids: torch.Tensor,
    next_token_ids: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    vocab_size: int,
) -> None:
    """The same in PyTorch."""
    requests, columns = sampled_token_ids.shape
    kept = ~discard_request_mask[:requests]
    valid = (sampled_token_ids >= 0) & (sampled_token_ids < vocab_size) & kept.unsqueeze(1)
    places = torch.arange(columns, device=valid.device)
    last = torch.where(valid, places, -1).amax(1)
    found = sampled_token_ids.gather(1, last.clamp(min=0).unsqueeze(1)).squeeze(1)
    next_token_ids[:requests] = torch.where(last >= 0, found, backup_next_token_ids[:requests])
    valid_sampled_tokens_count[:requests] = valid.sum(1)


def launch(
    sampled_token_ids: torch.Tensor,
    discard_request_mask: torch.Tensor,
    backup_next_token_ids: torch.Tensor,
    next_token_ids: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    vocab_size: int,
) -> None:
    """One launch; the cores take tiles of the requests in turn."""
    requests, columns = sampled_token_ids.shape
    if requests:
        loading.launch(
            KERNEL,
            KERNEL.entries[0],
            min(loading.vector_cores(), -(-requests // TILE)),
            sampled_token_ids,
            discard_request_mask,
            backup_next_token_ids,
            next_token_ids,
            valid_sampled_tokens_count,
            requests,
            columns,
            # The stride of a single row means nothing.
            sampled_token_ids.stride(0) if requests > 1 else columns,
            vocab_size,
        )


def fake(
    sampled_token_ids: torch.Tensor,
    discard_request_mask: torch.Tensor,
    backup_next_token_ids: torch.Tensor,
    next_token_ids: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    vocab_size: int,
) -> None:
    """Nothing to allocate: the results are arguments."""


eagle_prepare_next_token_padded = operators.define(
    KERNEL,
    "eagle_prepare_next_token_padded(Tensor sampled_token_ids, Tensor discard_request_mask, "
    "Tensor backup_next_token_ids, Tensor(a!) next_token_ids, Tensor(b!) valid_sampled_tokens_count, int vocab_size) "
    "-> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Fills in the token from which drafting goes on, and the number of valid sampled tokens, of each request.

The arguments are those of ``_eagle_prepare_next_token_padded`` in ``vllm/v1/spec_decode/utils.py``, in its order, up to
`vocab_size`; sizes and strides are the tensors' own.

Args:
    sampled_token_ids: ``[requests, columns]`` int32, rows may be apart: accepted tokens and the one sampled after them;
        -1 for a rejected one. A token is valid in ``[0, vocab_size)``.
    discard_request_mask: ``[at least requests]`` bool: requests whose sampled tokens do not count.
    backup_next_token_ids: ``[at least requests]`` int32: the result for a request without a valid token.
    next_token_ids: ``[at least requests]`` int32, a result: the last valid token.
    valid_sampled_tokens_count: ``[at least requests]`` int32, a result.
    vocab_size: tokens in the vocabulary.
"""
