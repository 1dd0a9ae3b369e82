"""Where each token's key and value go in the paged KV cache."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

PATCH = Patch(
    id="worker.slot_mapping",
    why="The slot mapping is computed by a Triton kernel, and the stock installation has no Triton for NPUs.",
    required=True,
    requires=("worker.init_device",),
    variants=(
        Variant(versions=">=0.13.0,<0.19", unneeded="The slot mapping is computed on the host, with numpy."),
        Variant(
            versions=">=0.19.0,<0.34",
            rewrites=(
                Replace("vllm.v1.worker.block_table:BlockTable.compute_slot_mapping", by=":compute_slot_mapping"),
            ),
        ),
    ),
    upstream="vllm/v1/worker/block_table.py, BlockTable.compute_slot_mapping",
    unnecessary_when="BlockTable has a slot mapping in plain PyTorch that an out-of-tree platform can select.",
    expires=(
        Expiry("vllm.v1.worker.block_table:BlockTable.compute_slot_mapping", mentions="HAS_TRITON"),
        Expiry("vllm.v1.worker.block_table:BlockTable.compute_slot_mapping", mentions="current_platform"),
    ),
)


def compute_slot_mapping(self: Any, num_reqs: int, query_start_loc: Any, positions: Any) -> None:
    """Fill ``self.slot_mapping.gpu``; tokens past the batch get the padding slot.

    Args:
        num_reqs: requests in the batch.
        query_start_loc: ``[num_reqs + 1]`` int32, first token of each request.
        positions: ``[num_tokens]`` int64, position of each token in its request.
    """
    if without_slots(self):
        return
    if over_ranks(self):
        raise NotImplementedError(
            "ascend_patch's slot mapping has no context parallelism: set decode_context_parallel_size and"
            " prefill_context_parallel_size to 1."
        )
    npu.compute_slot_mapping(
        query_start_loc[: num_reqs + 1],
        positions,
        self.block_table.gpu,
        self.block_size,
        self.slot_mapping.gpu,
    )


def without_slots(block_table: Any) -> bool:
    """Whether the table serves states instead of tokens (Mamba); up to 0.25 such a table gets a mapping, too."""
    mode = getattr(block_table, "slot_mapping_mode", None)
    return mode is not None and mode.name == "NONE"


def over_ranks(block_table: Any) -> bool:
    """Whether a request's tokens are spread over ranks; up to 0.25 prefill context parallelism does so, too."""
    return int(block_table.dcp_world_size * block_table.pcp_world_size) != 1
