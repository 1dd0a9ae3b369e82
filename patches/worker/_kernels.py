"""What vLLM's worker calls, on our kernels. Imported once a target module has executed, so torch is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch.patches.worker.slot_mapping import over_ranks, without_slots


def slot_mapping_in_one_launch(original: Callable[..., None]) -> Callable[..., None]:
    """Use the kernel where it applies: plain token slots, no decode context parallelism."""

    def compute_slot_mapping(self: Any, num_reqs: int, query_start_loc: Any, positions: Any) -> None:
        if without_slots(self) or over_ranks(self) or self.block_size & (self.block_size - 1):
            return original(self, num_reqs, query_start_loc, positions)
        from ascend_patch.kernels.compute_slot_mapping import compute_slot_mapping as launch  # not in every process

        launch(query_start_loc[: num_reqs + 1], positions, self.block_table.gpu, self.block_size, self.slot_mapping.gpu)
        return None

    return compute_slot_mapping
