"""Which row of a rank's part of the embedding table a token id is, and which ids belong to other ranks.

Cost: 4 (or 8) + 8 + 1 bytes per id, which is the minimum. 11 vector instructions per 64 ids with one range, 17 with
two, and 16 per core to fill what is zero. It replaces 13 launches (vLLM's function without torch.compile, by hostcann's
trace).
"""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.arguments import LARGEST_INT32
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="masked_vocabulary_index",
    why="One launch per step and embedding instead of a string of comparisons and products on a few token ids.",
    replaces=13,
    entries=("masked_vocabulary_index_int32", "masked_vocabulary_index_int64"),
    parameters=("ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "i32"),
)

TILE = 2048
"""Token ids that one core takes at a time (kTile in the source)."""
ENTRIES = {torch.int32: KERNEL.entries[0], torch.int64: KERNEL.entries[1]}


def check(ids: torch.Tensor, org_start: int, org_end: int, org_padding: int, added_start: int, added_end: int) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype other than int32 and int64.
        ValueError: ids that are not contiguous, 2^31 ids or more, a range that ends before it starts or beyond
            2^31 - 1, or ranges that overlap.
    """
    if ids.dtype not in ENTRIES:
        raise TypeError(f"masked_vocabulary_index: ids is {ids.dtype}, it must be torch.int32 or torch.int64")
    if not ids.is_contiguous():
        raise ValueError("masked_vocabulary_index: ids must be contiguous")
    if ids.numel() > LARGEST_INT32:
        raise ValueError(f"masked_vocabulary_index: {ids.numel()} ids, at most {LARGEST_INT32} can be counted")
    for name, start, end in (("original", org_start, org_end), ("added", added_start, added_end)):
        if not 0 <= start <= end <= LARGEST_INT32:
            raise ValueError(f"masked_vocabulary_index: the {name} vocabulary is [{start}, {end})")
    if org_padding < 0:
        raise ValueError(f"masked_vocabulary_index: the padding of the original vocabulary is {org_padding} rows")
    if max(org_start, added_start) < min(org_end, added_end):
        raise ValueError(
            f"masked_vocabulary_index: original [{org_start}, {org_end}) and added [{added_start}, {added_end}) "
            "vocabulary overlap"
        )


def reference(
    ids: torch.Tensor, org_start: int, org_end: int, org_padding: int, added_start: int, added_end: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in PyTorch."""
    original = (ids >= org_start) & (ids < org_end)
    added = (ids >= added_start) & (ids < added_end)
    wide = ids.long()
    zero = torch.zeros_like(wide)
    rows = torch.where(original, wide - org_start, zero)
    rows = torch.where(added, wide - added_start + (org_end - org_start) + org_padding, rows)
    return rows, ~(original | added)


def launch(
    ids: torch.Tensor, org_start: int, org_end: int, org_padding: int, added_start: int, added_end: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One launch; the cores take tiles of the ids in turn."""
    rows, foreign = fake(ids, org_start, org_end, org_padding, added_start, added_end)
    count = ids.numel()
    if count:
        loading.launch(
            KERNEL,
            ENTRIES[ids.dtype],
            min(loading.vector_cores(), -(-count // TILE)),
            ids,
            rows,
            foreign,
            count,
            org_start,
            org_end,
            added_start,
            added_end,
            added_start - (org_end - org_start) - org_padding,
        )
    return rows, foreign


def fake(
    ids: torch.Tensor, org_start: int, org_end: int, org_padding: int, added_start: int, added_end: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in int64 and flags in bool, shaped like the ids."""
    return torch.empty_like(ids, dtype=torch.int64), torch.empty_like(ids, dtype=torch.bool)


masked_vocabulary_index = operators.define(
    KERNEL,
    "masked_vocabulary_index(Tensor ids, int org_start, int org_end, int org_padding, int added_start, int added_end) "
    "-> (Tensor, Tensor)",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Row of each id in this rank's table (0 for ids of other ranks), and which ids those are.

The arguments are those of `get_masked_input_and_mask` in ``vllm/model_executor/layers/vocab_parallel_embedding.py``, in
its order, so it can take that function's place. Rows come back in int64 whatever the ids are: the caller widens them
for the embedding anyway, and need not any more.

Args:
    ids: token ids of any shape, int32 or int64, contiguous.
    org_start: first id of the original vocabulary that this rank owns.
    org_end: the id behind the last of them.
    org_padding: rows of padding behind them in the table.
    added_start: first id of the added vocabulary (LoRA tokens) that this rank owns.
    added_end: the id behind the last of them; equal to `added_start` for none.

Returns:
    ``rows`` int64 and ``foreign`` bool, both shaped like `ids`.
"""
