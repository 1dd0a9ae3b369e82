"""Repetition, frequency and presence penalties."""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="apply_penalties",
    why="Counts token ids where they are needed, instead of int64 histograms as wide as the vocabulary in memory.",
    replaces=23,
    entries=("apply_penalties_float", "apply_penalties_half", "apply_penalties_bfloat16"),
    parameters=(
        *("ptr", "ptr", "ptr", "ptr", "ptr", "ptr"),
        *("i32", "i32", "i32", "i32", "i64", "i64", "i64"),
    ),
)

ENTRIES = dict(zip((torch.float32, torch.float16, torch.bfloat16), KERNEL.entries, strict=True))
TILE = 8192
"""Tokens that one core takes at a time (kTile in the source)."""


def check(
    logits: torch.Tensor,
    prompt_token_ids: torch.Tensor,
    output_token_ids: torch.Tensor,
    presence_penalties: torch.Tensor,
    frequency_penalties: torch.Tensor,
    repetition_penalties: torch.Tensor,
) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, a layout.
    """
    if logits.dtype not in ENTRIES:
        raise TypeError(f"apply_penalties: logits are {logits.dtype}, they must be float32, float16 or bfloat16")
    if logits.dim() != 2 or logits.stride(1) != 1:
        raise ValueError("apply_penalties: logits must be a matrix with contiguous rows")
    rows = logits.shape[0]
    for name, tensor in (("prompt_token_ids", prompt_token_ids), ("output_token_ids", output_token_ids)):
        if tensor.dtype != torch.int64:
            raise TypeError(f"apply_penalties: {name} is {tensor.dtype}, it must be torch.int64")
        if tensor.dim() != 2 or tensor.shape[0] != rows or (tensor.shape[1] > 1 and tensor.stride(1) != 1):
            raise ValueError(
                f"apply_penalties: {name} must have {rows} contiguous rows like logits, not {tuple(tensor.shape)}"
            )
    for name, tensor in (
        ("presence_penalties", presence_penalties),
        ("frequency_penalties", frequency_penalties),
        ("repetition_penalties", repetition_penalties),
    ):
        if tensor.dtype != torch.float32:
            raise TypeError(f"apply_penalties: {name} is {tensor.dtype}, it must be torch.float32")
        if tensor.shape != (rows,) or not tensor.is_contiguous():
            raise ValueError(
                f"apply_penalties: {name} must be a contiguous vector of {rows}, not {tuple(tensor.shape)}"
            )


def reference(
    logits: torch.Tensor,
    prompt_token_ids: torch.Tensor,
    output_token_ids: torch.Tensor,
    presence_penalties: torch.Tensor,
    frequency_penalties: torch.Tensor,
    repetition_penalties: torch.Tensor,
) -> None:
    """The same in PyTorch."""
    vocab = logits.shape[1]
    counts = _counts(output_token_ids, vocab)
    seen = (counts > 0) | (_counts(prompt_token_ids, vocab) > 0)
    values = logits.float()
    repetition = repetition_penalties.unsqueeze(1)
    scaled = values * torch.where(values > 0, 1.0 / repetition, repetition)
    values = torch.where(seen, scaled, values)
    values = values - frequency_penalties.unsqueeze(1) * counts
    values = values - presence_penalties.unsqueeze(1) * (counts > 0)
    logits.copy_(values)


def _counts(token_ids: torch.Tensor, vocab: int) -> torch.Tensor:
    """How often each token occurs in each row: ``[rows, vocab]`` int64."""
    padding = (token_ids < 0) | (token_ids >= vocab)
    histogram = torch.zeros(token_ids.shape[0], vocab + 1, dtype=torch.int64, device=token_ids.device)
    histogram.scatter_add_(1, token_ids.masked_fill(padding, vocab), torch.ones_like(token_ids))
    return histogram[:, :vocab]


def launch(
    logits: torch.Tensor,
    prompt_token_ids: torch.Tensor,
    output_token_ids: torch.Tensor,
    presence_penalties: torch.Tensor,
    frequency_penalties: torch.Tensor,
    repetition_penalties: torch.Tensor,
) -> None:
    """One launch; the cores take tiles of the rows in turn."""
    rows, vocab = logits.shape
    units = rows * -(-vocab // TILE)
    if units == 0:
        return
    loading.launch(
        KERNEL,
        ENTRIES[logits.dtype],
        min(loading.vector_cores(), units),
        logits,
        prompt_token_ids,
        output_token_ids,
        presence_penalties,
        frequency_penalties,
        repetition_penalties,
        rows,
        vocab,
        prompt_token_ids.shape[1],
        output_token_ids.shape[1],
        logits.stride(0),
        prompt_token_ids.stride(0),
        output_token_ids.stride(0),
    )


def fake(
    logits: torch.Tensor,
    prompt_token_ids: torch.Tensor,
    output_token_ids: torch.Tensor,
    presence_penalties: torch.Tensor,
    frequency_penalties: torch.Tensor,
    repetition_penalties: torch.Tensor,
) -> None:
    """Nothing to allocate: the result is an argument."""


apply_penalties = operators.define(
    KERNEL,
    "apply_penalties(Tensor(a!) logits, Tensor prompt_token_ids, Tensor output_token_ids, Tensor presence_penalties, "
    "Tensor frequency_penalties, Tensor repetition_penalties) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Applies the three penalties to `logits` in place, as ``vllm.model_executor.layers.utils.apply_penalties`` does.

The arguments and their order are those of that function. Token ids outside the vocabulary count as padding, the -1 of
asynchronous scheduling included, so that ``apply_all_penalties`` need not replace them first.

Args:
    logits: ``[rows, vocabulary]`` float32, float16 or bfloat16, changed in place; rows may be apart. The arithmetic is
        float32.
    prompt_token_ids: ``[rows, n]`` int64, padded with any id that is not in the vocabulary.
    output_token_ids: ``[rows, m]`` int64, padded likewise.
    presence_penalties: ``[rows]`` float32: subtracted from tokens of the output.
    frequency_penalties: ``[rows]`` float32: subtracted once per occurrence in the output.
    repetition_penalties: ``[rows]`` float32, above 0: divides positive logits of tokens of prompt or output, and
        multiplies negative ones.

Cost in float32: 8 bytes per element of each tile of 8192 tokens that holds a token of the row, and 8 bytes per token id
and tile; 12 vector instructions per 64 elements (15 in the 16-bit types) and 6 per 64 ids and tile. The minimum for a
row that changes everywhere is 8 bytes per element and 8 per id: at a vocabulary of 151,936 and 1,000 ids the kernel
moves 1.12 times that. Rows without penalties move nothing. One launch for 23: two that replace -1, and 21 of vLLM's
function.
"""
