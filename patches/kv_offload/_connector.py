"""What vLLM's OffloadingConnector (0.13 to 0.18) calls to move blocks between device and host, on torch-npu's copies.

Imported once a target module has executed, so torch is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ascend_patch.patches.kv_offload._transfers import copy_runs


class PlanesFirst:
    """The shape of a cache with its two planes (keys, values) outside the blocks, as vLLM asks a backend for it."""

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, **_: Any
    ) -> tuple[int, ...]:
        return (2, num_blocks, block_size, num_kv_heads * head_size)

    @staticmethod
    def get_kv_cache_stride_order(include_num_layers_dimension: bool = False) -> tuple[int, ...]:
        return (0, 1, 2, 3)


def plane_by_plane(original: Callable[..., None]) -> Callable[..., None]:
    """Show the handlers each cache as it lies in memory, where a plane of all blocks is one piece: no gathering."""

    def __init__(
        self: Any, *, gpu_caches: Mapping[str, torch.Tensor], attn_backends: Mapping[str, Any], **sizes: int
    ) -> None:
        caches, backends = dict(gpu_caches), dict(attn_backends)
        for layer, cache in gpu_caches.items():
            if cache.dim() == 4 and cache.stride(1) > cache.stride(0):
                caches[layer], backends[layer] = cache.transpose(0, 1), PlanesFirst
        original(self, gpu_caches=caches, attn_backends=backends, **sizes)

    return __init__


def after_the_step(original: Callable[..., bool]) -> Callable[..., bool]:
    """Let what leaves the device wait for the step that computes it: vLLM does not before 0.14."""

    def transfer_async(self: Any, job_id: int, transfer_spec: Any) -> bool:
        if not self._stream_pool:
            self._stream_pool.append(torch.npu.Stream())
        if self.src_tensors[0].device.type != "cpu":
            self._stream_pool[-1].wait_stream(torch.npu.current_stream())
        return original(self, job_id, transfer_spec)

    return transfer_async


def swap_rows(src: torch.Tensor, dst: torch.Tensor, block_mapping: torch.Tensor) -> None:
    """Enqueue copies of blocks on the current stream.

    Args:
        src: ``[blocks, ...]``, contiguous, on the device or pinned on the host.
        dst: likewise, on the other side.
        block_mapping: ``[copies, 2]`` int64 on the host, pairs of a block of `src` and one of `dst`.
    """
    copy_runs([src], [dst], block_mapping[:, 0].tolist(), block_mapping[:, 1].tolist())


def swap_blocks(src: torch.Tensor, dst: torch.Tensor, block_size_in_bytes: int, block_mapping: torch.Tensor) -> None:
    """The same for blocks of so many bytes, whatever the rows of `src` and `dst` are (vLLM from 0.15 on)."""
    source, destination = (side.view(-1).view(torch.int8).view(-1, block_size_in_bytes) for side in (src, dst))
    swap_rows(source, destination, block_mapping)
