"""The slot mapping as one kernel."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Patch, Variant, Wrap

PATCH = Patch(
    id="worker.slot_mapping_kernel",
    why="In PyTorch the slot mapping is a search, a gather and arithmetic on int64: nine operators in every step.",
    requires=("worker.slot_mapping",),
    variants=(
        Variant(versions=">=0.13.0,<0.19", unneeded="The slot mapping is computed on the host, with numpy."),
        Variant(
            versions=">=0.19.0,<0.34",
            rewrites=(
                Wrap(
                    "vllm.v1.worker.block_table:BlockTable.compute_slot_mapping",
                    by="ascend_patch.patches.worker._kernels:slot_mapping_in_one_launch",
                ),
            ),
        ),
    ),
    upstream="vllm/v1/worker/block_table.py, BlockTable.compute_slot_mapping",
    unnecessary_when="torch-npu has an operator for the slot mapping.",
    no_sign="the operator would be torch-npu's; vLLM's sources do not name those.",
)
