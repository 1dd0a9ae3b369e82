"""Which token each request of a padded draft batch is sampled from, with the rejected tokens left in as padding.

Cost: 24 bytes per request, 1.2 times the minimum (the running sum is read twice); 7 vector instructions per 64
requests. It replaces 12 launches (the same in PyTorch, by hostcann's trace); stock vLLM needs Triton.
"""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.arguments import expect
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="eagle_prepare_inputs_padded",
    why="One launch per verified batch in the place of vLLM's Triton kernel, which needs Triton for NPUs.",
    replaces=12,
    entries=("eagle_prepare_inputs_padded",),
    parameters=("ptr", "ptr", "ptr", "ptr", "ptr", "i32"),
)

TILE = 1024
"""Requests that one core takes at a time (kTile in the source)."""


def check(
    cu_num_draft_tokens: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    query_start_loc: torch.Tensor,
    token_indices_to_sample: torch.Tensor,
    num_rejected_tokens: torch.Tensor,
) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: dimensions, layout, or a tensor with fewer entries than `token_indices_to_sample` asks for.
    """
    name = KERNEL.name
    expect(name, "token_indices_to_sample", token_indices_to_sample, torch.int32, 1)
    requests = token_indices_to_sample.shape[0]
    expect(name, "cu_num_draft_tokens", cu_num_draft_tokens, torch.int32, 1, at_least=requests)
    expect(name, "valid_sampled_tokens_count", valid_sampled_tokens_count, torch.int32, 1, at_least=requests)
    expect(name, "query_start_loc", query_start_loc, torch.int32, 1, at_least=requests + 1)
    expect(name, "num_rejected_tokens", num_rejected_tokens, torch.int32, 1, at_least=requests)


def reference(
    cu_num_draft_tokens: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    query_start_loc: torch.Tensor,
    token_indices_to_sample: torch.Tensor,
    num_rejected_tokens: torch.Tensor,
) -> None:
    """The same in PyTorch."""
    requests = token_indices_to_sample.shape[0]
    sums = cu_num_draft_tokens[:requests]
    drafts = sums.clone()
    drafts[1:] -= sums[:-1]
    rejected = torch.where(drafts > 0, drafts + 1 - valid_sampled_tokens_count[:requests], 0)
    num_rejected_tokens[:requests] = rejected
    token_indices_to_sample.copy_(query_start_loc[1 : requests + 1] - 1 - rejected)


def launch(
    cu_num_draft_tokens: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    query_start_loc: torch.Tensor,
    token_indices_to_sample: torch.Tensor,
    num_rejected_tokens: torch.Tensor,
) -> None:
    """One launch, on one core for most batches."""
    requests = token_indices_to_sample.shape[0]
    if requests:
        loading.launch(
            KERNEL,
            KERNEL.entries[0],
            min(loading.vector_cores(), -(-requests // TILE)),
            cu_num_draft_tokens,
            valid_sampled_tokens_count,
            query_start_loc,
            token_indices_to_sample,
            num_rejected_tokens,
            requests,
        )


def fake(
    cu_num_draft_tokens: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    query_start_loc: torch.Tensor,
    token_indices_to_sample: torch.Tensor,
    num_rejected_tokens: torch.Tensor,
) -> None:
    """Nothing to allocate: the results are arguments."""


eagle_prepare_inputs_padded = operators.define(
    KERNEL,
    "eagle_prepare_inputs_padded(Tensor cu_num_draft_tokens, Tensor valid_sampled_tokens_count, "
    "Tensor query_start_loc, Tensor(a!) token_indices_to_sample, Tensor(b!) num_rejected_tokens) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Fills in which token each request is sampled from, and how many of its draft tokens were rejected.

The arguments are those of ``_eagle_prepare_inputs_padded`` in ``vllm/v1/spec_decode/utils.py``, as
``SpecDecodeBaseProposer.prepare_inputs_padded`` has them; the number of requests is the size of the first result.

Args:
    cu_num_draft_tokens: ``[requests]`` int32, draft tokens of this request and those before it
        (``SpecDecodeMetadata.cu_num_draft_tokens``).
    valid_sampled_tokens_count: ``[requests]`` int32, accepted draft tokens and the one sampled after them.
    query_start_loc: ``[requests + 1]`` int32, first token of each request, then the number of tokens.
    token_indices_to_sample: ``[requests]`` int32, a result: the last token of the request that is not rejected.
    num_rejected_tokens: ``[requests]`` int32, a result; 0 for a request without draft tokens.
"""
