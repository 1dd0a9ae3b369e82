"""Collectives in which the ranks have different numbers of rows."""

from __future__ import annotations

import torch
from torch.distributed import ProcessGroup
from torch_npu.distributed import all_gather_into_tensor_uneven, reduce_scatter_tensor_uneven


def all_gather_rows(x: torch.Tensor, sizes: list[int], group: ProcessGroup) -> torch.Tensor:
    """The rows of all ranks, in the order of the ranks.

    Args:
        x: ``[rows, ...]``, contiguous; any type that HCCL moves.
        sizes: rows of each rank, known to all.
        group: of the back end ``hccl``.

    Returns:
        ``[sum(sizes), ...]``.

    Source: HCCL, HcclAllGather, and HcclAllGatherV where the sizes differ.
    """
    out = x.new_empty((sum(sizes), *x.shape[1:]))
    if len(set(sizes)) == 1:
        torch.distributed.all_gather_into_tensor(out, x, group=group)
    else:
        all_gather_into_tensor_uneven(out, x, sizes, group=group)
    return out


def reduce_scatter_rows(x: torch.Tensor, sizes: list[int], group: ProcessGroup) -> torch.Tensor:
    """The rows of this rank, added up over all ranks.

    Args:
        x: ``[sum(sizes), ...]``, contiguous; float32, float16 or bfloat16.
        sizes: rows of each rank, in the order of the ranks.
        group: of the back end ``hccl``.

    Returns:
        ``[sizes[rank], ...]``.

    Source: HCCL, HcclReduceScatter, and HcclReduceScatterV where the sizes differ.
    """
    out = x.new_empty((sizes[group.rank()], *x.shape[1:]))
    if len(set(sizes)) == 1:
        torch.distributed.reduce_scatter_tensor(out, x, group=group)
    else:
        reduce_scatter_tensor_uneven(out, x, sizes, group=group)
    return out
