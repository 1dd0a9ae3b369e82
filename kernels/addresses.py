"""Memory named by addresses: tables of them for kernels, and their memory for references."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch


@cache
def table(rows: tuple[tuple[int, ...], ...], device: torch.device) -> torch.Tensor:
    """Addresses, and what goes with them, on the device: ``[columns, rows]`` int64, each column contiguous.

    Kept for good, because a captured graph may go on reading it: call it with addresses that stay.
    """
    return torch.tensor(rows, dtype=torch.int64).T.contiguous().to(device)


def span(memory: Sequence[torch.Tensor], address: int, size: int) -> torch.Tensor:
    """The `size` bytes at `address` as a uint8 view of the storage that holds them.

    Raises:
        ValueError: no tensor of `memory` has a storage that holds all of them.
    """
    for tensor in memory:
        storage = tensor.untyped_storage()
        offset = address - storage.data_ptr()
        if offset >= 0 and offset + size <= storage.nbytes():
            empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
            return empty.set_(storage, offset, (size,), (1,))
    raise ValueError(f"{size} bytes at {address:#x} are in none of the {len(memory)} tensors that were named")
