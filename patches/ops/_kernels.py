"""What vLLM's layers call, on our kernels. Imported once a target module has executed, so torch is there."""

from __future__ import annotations

import torch

from ascend_patch.kernels.masked_vocabulary_index import masked_vocabulary_index


def get_masked_input_and_mask(
    input_: torch.Tensor,
    org_vocab_start_index: int,
    org_vocab_end_index: int,
    num_org_vocab_padding: int,
    added_vocab_start_index: int,
    added_vocab_end_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The row of each token id in this rank's part of the table, and which ids belong to other ranks.

    Args:
        input_: token ids of any shape, int32 or int64.

    Returns:
        Rows in int64, 0 for ids of other ranks, and flags in bool, both shaped like `input_`.
    """
    rows, foreign = masked_vocabulary_index(
        input_.contiguous(),
        org_vocab_start_index,
        org_vocab_end_index,
        num_org_vocab_padding,
        added_vocab_start_index,
        added_vocab_end_index,
    )
    return rows, foreign
