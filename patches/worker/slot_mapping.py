"""Where each token's key and value go in the paged KV cache."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Patch, Replace, Variant

PATCH = Patch(
    id="worker.slot_mapping",
    why="The slot mapping is computed by a Triton kernel, and the stock installation has no Triton for NPUs.",
    required=True,
    requires=("worker.init_device",),
    variants=(
        Variant(
            versions=">=0.32.0,<0.34",
            rewrites=(
                Replace("vllm.v1.worker.block_table:BlockTable.compute_slot_mapping", by=":compute_slot_mapping"),
            ),
        ),
    ),
    upstream="vllm/v1/worker/block_table.py, BlockTable.compute_slot_mapping",
    unnecessary_when="BlockTable has a slot mapping in plain PyTorch that an out-of-tree platform can select.",
)


def compute_slot_mapping(self: Any, num_reqs: int, query_start_loc: Any, positions: Any) -> None:
    """Fill ``self.slot_mapping.gpu``; tokens past the batch get the padding slot.

    Args:
        num_reqs: requests in the batch.
        query_start_loc: ``[num_reqs + 1]`` int32, first token of each request.
        positions: ``[num_tokens]`` int64, position of each token in its request.
    """
    if self.slot_mapping_mode.name == "NONE":
        return
    if self.dcp_world_size != 1:
        raise NotImplementedError(
            "ascend_patch's slot mapping has no decode context parallelism: set decode_context_parallel_size=1."
        )
    npu.compute_slot_mapping(
        query_start_loc[: num_reqs + 1],
        positions,
        self.block_table.gpu,
        self.block_size,
        self.slot_mapping.gpu,
    )
