"""Collectives in which the ranks have different numbers of rows, and a product that is added up over the ranks."""

from __future__ import annotations

import torch
from torch.distributed import ProcessGroup
from torch_npu.distributed import all_gather_into_tensor_uneven, reduce_scatter_tensor_uneven

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family

_RANKS = {"910B": (2, 4, 8), "950": (2, 4, 8, 16, 32, 64)}.get(soc_family(), ())


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


def matmul_all_reduce(x: torch.Tensor, weight: torch.Tensor, communicator: str) -> torch.Tensor:
    """``x @ weight.T``, added up over the ranks while it is computed.

    Args:
        x: ``[rows, k]`` or ``[batch, rows, k]``, contiguous; float16 or bfloat16. No size is 0.
        weight: ``[columns, k]``, contiguous, in the type of `x`.
        communicator: HCCL's name of it, `Ranks.name`; it may have collectives, but no operators that want it for
            themselves.

    Returns:
        As `x`, with `columns` instead of ``k``.

    Source: CANN ops-transformer, aclnnMatmulAllReduce: for prefill, not for decode.
    """
    out: torch.Tensor = operators.npu_mm_all_reduce_base(x, weight.t(), communicator, reduce_op="sum")
    return out


def matmul_all_reduce_refuses(ranks: int, dtype: torch.dtype) -> str:
    """Why `matmul_all_reduce` could not be used by so many ranks, or "".

    Source: CANN ops-transformer, aclnnMatmulAllReduce, supported products and constraints.
    """
    if not _RANKS:
        return f"{soc_family()} has no fused product and all-reduce (A2 and 950 have)"
    if ranks not in _RANKS:
        return f"it takes {', '.join(map(str, _RANKS))} ranks, not {ranks}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    return ""
