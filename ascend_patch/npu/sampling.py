"""Filtering of logits before a token is drawn."""

from __future__ import annotations

import torch

from ascend_patch.npu._operators import operators
from ascend_patch.npu.device import soc_family


def _fused(logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
    """Sets what top-k or top-p excludes to minus infinity.

    Args:
        logits: ``[requests, vocabulary]`` float32, float16 or bfloat16.
        k: ``[requests]`` int32: keep the k largest and what equals the k-th; None, or a value outside
            1 ... vocabulary - 1, for no top-k.
        p: ``[requests]``, the type of `logits`, 0 to 1: of what top-k left, keep the most probable tokens until their
            probabilities exceed p, at least one; None for no top-p.

    Returns:
        A tensor like `logits`; `logits` itself if both `k` and `p` are None.

    Source: CANN ops-nn, aclnnApplyTopKTopP; 310P does not have it and takes PyTorch operators instead.
    """
    if k is None and p is None:
        return logits
    return operators.npu_top_k_top_p(logits, p, k)


def _composed(logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
    if k is None and p is None:
        return logits
    values, order = logits.sort(dim=-1, stable=True)
    vocabulary = logits.shape[-1]
    if k is not None:
        kept = torch.where((k <= 0) | (k >= vocabulary), vocabulary, k).to(torch.int64)
        smallest = values.gather(1, (vocabulary - kept).unsqueeze(1))
        values = values.masked_fill(values < smallest, -float("inf"))
    if p is not None:
        excluded = values.float().softmax(dim=-1).cumsum(dim=-1) <= 1.0 - p.float().unsqueeze(1)
        excluded[:, -1] = False
        values = values.masked_fill(excluded, -float("inf"))
    return torch.empty_like(logits).scatter_(1, order, values)


_composed.__doc__ = _fused.__doc__
top_k_top_p = _composed if soc_family() == "310P" else _fused
