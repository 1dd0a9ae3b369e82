"""Structured output: logits of tokens that the grammar forbids become minus infinity."""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="apply_grammar_bitmask",
    why="On an NPU xgrammar unpacks the mask to one int32 per token, in ten launches with two synchronisations.",
    replaces=10,
    entries=("apply_grammar_bitmask_float", "apply_grammar_bitmask_half", "apply_grammar_bitmask_bfloat16"),
    parameters=("ptr", "ptr", "ptr", "i32", "i32", "i64", "i64"),
)

ENTRIES = dict(zip((torch.float32, torch.float16, torch.bfloat16), KERNEL.entries, strict=True))
WORD_BITS = 32
TILE = 8192
"""Tokens that one core takes at a time (kTile in the source)."""


def check(logits: torch.Tensor, bitmask: torch.Tensor, indices: torch.Tensor | None) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, a layout.
    """
    if logits.dtype not in ENTRIES:
        raise TypeError(f"apply_grammar_bitmask: logits are {logits.dtype}, they must be float32, float16 or bfloat16")
    if bitmask.dtype != torch.int32:
        raise TypeError(f"apply_grammar_bitmask: bitmask is {bitmask.dtype}, it must be torch.int32")
    for name, tensor in (("logits", logits), ("bitmask", bitmask)):
        if tensor.dim() != 2 or tensor.stride(1) != 1:
            raise ValueError(f"apply_grammar_bitmask: {name} must be a matrix with contiguous rows")
    if indices is None:
        if bitmask.shape[0] != logits.shape[0]:
            raise ValueError(
                f"apply_grammar_bitmask: bitmask has {bitmask.shape[0]} rows, logits {logits.shape[0]}; pass indices"
            )
        return
    if indices.dtype != torch.int32:
        raise TypeError(f"apply_grammar_bitmask: indices are {indices.dtype}, they must be torch.int32")
    if indices.dim() != 1 or indices.stride(0) != 1:
        raise ValueError("apply_grammar_bitmask: indices must be a contiguous vector")


def reference(logits: torch.Tensor, bitmask: torch.Tensor, indices: torch.Tensor | None) -> None:
    """The same in PyTorch."""
    vocab = covered(logits, bitmask)
    words = bitmask if indices is None else bitmask[indices]
    bits = torch.arange(WORD_BITS, dtype=torch.int32, device=logits.device)
    forbidden = (words.unsqueeze(-1) >> bits & 1).flatten(1)[:, :vocab] == 0
    if indices is None:
        logits[:, :vocab].masked_fill_(forbidden, -torch.inf)
    else:
        logits[indices, :vocab] = logits[indices, :vocab].masked_fill(forbidden, -torch.inf)


def covered(logits: torch.Tensor, bitmask: torch.Tensor) -> int:
    """Tokens that both the logits and the bitmask have; padding of either is left alone."""
    return min(logits.shape[1], bitmask.shape[1] * WORD_BITS)


def launch(logits: torch.Tensor, bitmask: torch.Tensor, indices: torch.Tensor | None) -> None:
    """One launch; the cores take tiles of the chosen rows in turn."""
    rows = logits.shape[0] if indices is None else indices.shape[0]
    vocab = covered(logits, bitmask)
    units = rows * -(-vocab // TILE)
    if units == 0:
        return
    loading.launch(
        KERNEL,
        ENTRIES[logits.dtype],
        min(loading.vector_cores(), units),
        logits,
        bitmask,
        indices,
        rows,
        vocab,
        logits.stride(0),
        bitmask.stride(0),
    )


def fake(logits: torch.Tensor, bitmask: torch.Tensor, indices: torch.Tensor | None) -> None:
    """Nothing to allocate: the result is an argument."""


apply_grammar_bitmask = operators.define(
    KERNEL,
    "apply_grammar_bitmask(Tensor(a!) logits, Tensor bitmask, Tensor? indices) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Sets ``logits[i, v]`` to minus infinity where bit ``v`` of ``bitmask[i]`` is 0, for the rows in `indices`.

The arguments are those of ``xgrammar.apply_token_bitmask_inplace`` as vLLM calls it at the end of
``vllm.v1.structured_output.utils.apply_grammar_bitmask``: bitmask and indices are on the device already.

Args:
    logits: ``[rows, vocabulary]`` float32, float16 or bfloat16, changed in place; rows may be apart.
    bitmask: ``[rows, words]`` int32: bit ``v % 32`` of word ``v // 32`` is 1 if token ``v`` may follow. Tokens past
        ``32 * words`` are left alone.
    indices: ``[n]`` int32: the rows to change, each at most once, the same in `logits` and `bitmask`; None for all.

Cost per element of a chosen row: 8.125 bytes in float32 and 4.125 in the 16-bit types, which is the minimum (one read,
one write, one bit); 1 vector instruction per 64 elements in float32, 1 per 128 in float16, 3 per 64 in bfloat16. One
launch for the 10 of xgrammar's ``torch_native`` back end, or 8 without indices.
"""
