"""What vLLM's cache keeping calls, on our kernels. Imported once a target module has executed, so torch is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def keep_caches(original: Callable[..., None]) -> Callable[..., None]:
    """`KVBlockZeroer` keeps addresses only; without the kernel, its reference needs the memory they are in."""

    def __init__(
        self: Any,
        device: torch.device,
        attn_groups_iter: Any,
        kernel_block_sizes: list[int],
        static_forward_context: dict[str, Any],
        num_blocks: int,
        runner_only_attn_layers: set[str] | None = None,
    ) -> None:
        original(
            self,
            device,
            attn_groups_iter,
            kernel_block_sizes,
            static_forward_context,
            num_blocks,
            runner_only_attn_layers,
        )
        caches = (getattr(layer, "kv_cache", None) for layer in static_forward_context.values())
        # Layers share storages: one view of each is enough.
        self._npu_caches = list(
            {cache.untyped_storage().data_ptr(): cache for cache in caches if isinstance(cache, torch.Tensor)}.values()
        )

    return __init__


def zero_block_ids(self: Any, block_ids: list[int]) -> None:
    """Zero these blocks of every layer that the zeroer was made for, in one launch."""
    if not block_ids or self._meta is None:
        return
    from ascend_patch.kernels.zero_blocks import zero_blocks  # few processes zero blocks, all import this module

    addresses, strides, sizes, *_ = self._meta
    numbers = torch.tensor(block_ids, dtype=torch.int64, pin_memory=True).to(self.device, non_blocking=True)
    zero_blocks(self._npu_caches, addresses, strides, sizes, numbers)
