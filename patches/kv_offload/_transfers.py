"""What vLLM's simple KV offloading calls to move blocks between device and host, on torch-npu's copies.

Imported once a target module has executed, so torch is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch

from ascend_patch import npu

PAGE = 4096
"""Bytes to which the disk backend aligns its buffers for direct I/O (``_ALIGNMENT`` in its module)."""


class _Cuda:
    Stream: ClassVar[type] = npu.Stream


class Torch:
    """``torch`` as `SimpleCPUOffloadWorker.register_kv_caches` uses it, with the NPU's streams."""

    Tensor: ClassVar[type] = torch.Tensor
    zeros: ClassVar[Callable[..., torch.Tensor]] = staticmethod(torch.zeros)
    empty: ClassVar[Callable[..., torch.Tensor]] = staticmethod(torch.empty)
    int8: ClassVar[torch.dtype] = torch.int8
    cuda: ClassVar[type] = _Cuda


def after_the_step(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let what leaves the device wait for the step that computes it: vLLM does not before 0.24."""

    def get_finished(self: Any, finished_req_ids: set[str]) -> Any:
        metadata = self._connector_metadata
        if metadata is not None and metadata.store_gpu_blocks:
            self.store_stream.wait_stream(torch.npu.current_stream())
        return original(self, finished_req_ids)

    return get_finished


def pin_tensor(tensor: torch.Tensor) -> None:
    """Move a tensor of host memory into pinned memory, in place; alignment to pages is kept, contents are not.

    Not registered where it is, as for CUDA: torch-npu takes only memory of its own allocator for pinned.

    Args:
        tensor: contiguous and freshly made; views that were taken before stay behind.
    """
    pinned = torch.zeros(tensor.nbytes + PAGE, dtype=torch.int8, pin_memory=True)
    offset = (tensor.data_ptr() - pinned.data_ptr()) % PAGE // tensor.element_size()
    tensor.set_(pinned.untyped_storage(), offset, tensor.shape, tensor.stride())


def runs(sources: Sequence[int], destinations: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """First source, first destination and length of every stretch in which both count up by one."""
    start = 0
    for place in range(1, len(sources) + 1):
        length = place - start
        if (
            place == len(sources)
            or sources[place] != sources[start] + length
            or destinations[place] != destinations[start] + length
        ):
            yield sources[start], destinations[start], length
            start = place


def copy_runs(
    sources: Sequence[torch.Tensor],
    destinations: Sequence[torch.Tensor],
    source_ids: Sequence[int],
    destination_ids: Sequence[int],
) -> None:
    """Enqueue the copies of these pairs of rows in every region, on the current stream."""
    for first, target, count in runs(source_ids, destination_ids):
        for source, destination in zip(sources, destinations, strict=True):
            destination[target : target + count].copy_(source[first : first + count], non_blocking=True)


class Transfer:
    """Copies blocks of every region of a cache in one direction, in the order of a stream.

    Attributes:
        sources: ``[blocks, bytes]`` int8, one per region, all on the device or all pinned on the host.
        destinations: likewise, on the other side.
    """

    def __init__(self, sources: list[torch.Tensor], destinations: list[torch.Tensor], stream: Any) -> None:
        self.sources = sources
        self.destinations = destinations
        self._stream = stream

    def copy(self, source_ids: list[int], destination_ids: list[int]) -> None:
        """Enqueue the copies of these pairs of blocks."""
        with torch.npu.stream(self._stream):
            self._copy(source_ids, destination_ids)

    def _copy(self, source_ids: Sequence[int], destination_ids: Sequence[int]) -> None:
        copy_runs(self.sources, self.destinations, source_ids, destination_ids)


def build_params(
    src_caches: dict[str, torch.Tensor],
    dst_caches: dict[str, torch.Tensor],
    stream: Any,
    src_access_order: int = 0,
) -> Transfer:
    """What `copy_blocks` is given for one direction.

    Args:
        src_caches: ``[blocks, bytes]`` int8 by region.
        dst_caches: the same regions on the other side.
        stream: of the NPU.
        src_access_order: CUDA's; copies here are always in the order of the stream.
    """
    return Transfer(list(src_caches.values()), [dst_caches[name] for name in src_caches], stream)


def copy_blocks(src_block_ids: list[int], dst_block_ids: list[int], params: Transfer) -> None:
    """Enqueue the copies of these pairs of blocks in every region."""
    params.copy(src_block_ids, dst_block_ids)
