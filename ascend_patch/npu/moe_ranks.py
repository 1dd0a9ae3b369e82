"""Mixture of experts on several devices: tokens go to the devices of their experts and come back, as one operator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.distributed import ProcessGroup

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family

_A2 = soc_family() == "910B"
_A3_OR_950 = soc_family() in ("910_93", "950")


class Ranks(NamedTuple):
    """A group of devices that hold the experts, the same number each, in order."""

    name: str
    size: int
    rank: int


class Received(NamedTuple):
    """Tokens for the experts of this device, and what `return_tokens` needs to know about them."""

    rows: torch.Tensor
    counts: torch.Tensor
    origins: torch.Tensor
    rank_counts: torch.Tensor
    row_weights: torch.Tensor


def ranks_of(group: ProcessGroup) -> Ranks:
    """The ranks of a process group of the back end ``hccl``; if operators on experts use it, nothing else may.

    All ranks must ask at the same time: the communicator comes into being here.
    """
    rank = group.rank()
    return Ranks(group._get_backend(torch.device("npu")).get_hccl_comm_name(rank), group.size(), rank)


def send_tokens_supports(ranks: int, experts: int, size: int, tokens: int, dtype: torch.dtype, buffer: int) -> bool:
    """Whether `send_tokens` takes this.

    Args:
        ranks: devices.
        experts: of all devices.
        size: of a token.
        tokens: of the device that has the most.
        dtype: of the tokens.
        buffer: HCCL's memory for a communicator in bytes, HCCL_BUFFSIZE.

    Source: torch-npu op-plugin, npu_moe_distribute_dispatch_v2; CANN ops-transformer, aclnnMoeDistributeDispatchV2,
    constraints. On A2 only where a token goes to its experts directly (``fullmesh``). Up to 16 experts per token.
    """
    if dtype not in (torch.float16, torch.bfloat16) or experts % ranks or experts > 1024 or tokens < 1:
        return False
    own = experts // ranks
    if _A2:
        needed = 2 * (tokens * ranks * min(own, 16) * size * 2 + (2 << 20))
        fits = (2 <= ranks <= 8 or ranks in (16, 32, 64, 128, 256)) and size <= 7168 and size % 32 == 0
        return fits and tokens <= 256 and needed <= buffer
    if _A3_OR_950:
        needed = 2 * tokens * (own * ranks * _aligned(_aligned(2 * size, 32) + 64, 512) + 16 * _aligned(2 * size, 512))
        return 2 <= ranks <= 768 and 1024 <= size <= 8192 and tokens <= 512 and needed <= buffer
    return False


def _aligned(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def send_tokens(
    x: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor, num_experts: int, tokens: int, ranks: Ranks
) -> Received:
    """Each token to the devices of its experts; all ranks call it together.

    Args:
        x: ``[own tokens, size]`` float16 or bfloat16, contiguous; see `send_tokens_supports`.
        experts: ``[own tokens, k]`` int32, different ones in each row, of all devices; contiguous.
        weights: ``[own tokens, k]`` float32.
        num_experts: of all devices.
        tokens: of the device that has the most.
        ranks: from `ranks_of`.

    Returns:
        The tokens for this device's experts ``[tokens * ranks * min(own experts, k), size]``, in the order of the
        experts and not set behind the last; their number for each expert, int64, for `grouped_matmul`; the rest is for
        `return_tokens`.

    Source: CANN ops-transformer, aclnnMoeDistributeDispatchV2; not on 310P.
    """
    rows, _, origins, counts, rank_counts, _, row_weights = operators.npu_moe_distribute_dispatch_v2(
        x,
        experts,
        ranks.name,
        ranks.size,
        ranks.rank,
        num_experts,
        expert_scales=weights if _A2 else None,
        shared_expert_num=0,
        global_bs=tokens * ranks.size,
        expert_token_nums_type=1,
        comm_alg="fullmesh" if _A2 else "",
    )
    return Received(rows, counts, origins, rank_counts, row_weights)


def return_tokens(
    answers: torch.Tensor,
    received: Received,
    experts: torch.Tensor,
    weights: torch.Tensor,
    num_experts: int,
    tokens: int,
    ranks: Ranks,
) -> torch.Tensor:
    """The weighted sum of what the experts of all devices answered to each token of this one.

    Args:
        answers: for each of ``received.rows``, the same shape and type.
        received: from `send_tokens`, as are the other arguments.

    Returns:
        ``[own tokens, size]``, the type of `answers`.

    Source: CANN ops-transformer, aclnnMoeDistributeCombineV2.
    """
    return operators.npu_moe_distribute_combine_v2(
        answers,
        experts,
        received.origins,
        received.rank_counts,
        weights,
        ranks.name,
        ranks.size,
        ranks.rank,
        num_experts,
        expand_scales=received.row_weights if _A2 else None,
        shared_expert_num=0,
        global_bs=tokens * ranks.size,
        comm_alg="fullmesh" if _A2 else "",
    )
