"""Scattered blocks are gathered on the device, so that the host's side of a transfer is one piece per region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ascend_patch.patches.kv_offload._transfers import Transfer, runs

STAGING_BYTES = 32 << 20
"""Device memory for each direction. It comes on top of what vLLM reckoned with when it sized the cache."""


class StagedTransfer(Transfer):
    """Goes through a buffer on the device where that saves transfers."""

    def __init__(self, sources: list[torch.Tensor], destinations: list[torch.Tensor], stream: Any) -> None:
        super().__init__(sources, destinations, stream)
        self._to_host = sources[0].device.type != "cpu"
        on_device = sources if self._to_host else destinations
        block_bytes = sum(region[0].nbytes for region in on_device)
        self._capacity = max(1, min(STAGING_BYTES // block_bytes, len(on_device[0])))
        # One buffer for good: kernel and transfers follow each other on one stream, and its addresses stay.
        with torch.npu.stream(stream):
            self._staging = [region.new_empty((self._capacity, *region.shape[1:])) for region in on_device]

    def _copy(self, source_ids: Sequence[int], destination_ids: Sequence[int]) -> None:
        device_ids, host_ids = (source_ids, destination_ids) if self._to_host else (destination_ids, source_ids)
        pairs = sorted(zip(host_ids, device_ids, strict=True))
        pieces = sum(1 for _ in runs([host for host, _ in pairs], range(len(pairs))))
        if self._capacity == 1 or pieces == sum(1 for _ in runs(source_ids, destination_ids)):
            super()._copy(source_ids, destination_ids)
            return
        for start in range(0, len(pairs), self._capacity):
            part = pairs[start : start + self._capacity]
            hosts, slots = [host for host, _ in part], range(len(part))
            if self._to_host:
                self._launch(self.sources, self._staging, [(device, slot) for slot, (_, device) in enumerate(part)])
                Transfer(self._staging, self.destinations, self._stream)._copy(slots, hosts)
            else:
                Transfer(self.sources, self._staging, self._stream)._copy(hosts, slots)
                self._launch(
                    self._staging, self.destinations, [(slot, device) for slot, (_, device) in enumerate(part)]
                )

    @staticmethod
    def _launch(sources: list[torch.Tensor], destinations: list[torch.Tensor], mapping: list[tuple[int, int]]) -> None:
        from ascend_patch.kernels.copy_blocks import copy_blocks

        numbers = torch.tensor(mapping, dtype=torch.int64, pin_memory=True)
        copy_blocks(sources, destinations, numbers.to(sources[0].device, non_blocking=True))


def gather_on_the_device(original: Callable[..., Transfer]) -> Callable[..., Transfer]:
    """`build_params` with a buffer on the device."""

    def build_params(
        src_caches: dict[str, torch.Tensor],
        dst_caches: dict[str, torch.Tensor],
        stream: Any,
        src_access_order: int = 0,
    ) -> Transfer:
        plain = original(src_caches, dst_caches, stream, src_access_order)
        return StagedTransfer(plain.sources, plain.destinations, stream)

    return build_params
