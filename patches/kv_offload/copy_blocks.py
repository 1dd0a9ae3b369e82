"""Blocks that lie apart are gathered by one kernel on their way to the host, and scattered on their way back."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

PATCH = Patch(
    id="kv_offload.copy_blocks",
    why="Blocks that lie apart are a transfer each, times layers and planes; gathered, they are one per plane.",
    requires=("kv_offload.simple_cpu",),
    variants=(
        Variant(
            versions=">=0.19.0,<0.34",
            rewrites=(
                Wrap(
                    "vllm.v1.simple_kv_offload.cuda_mem_ops:build_params",
                    by="ascend_patch.patches.kv_offload._kernels:gather_on_the_device",
                ),
            ),
        ),
    ),
    upstream="vllm/v1/simple_kv_offload/cuda_mem_ops.py, build_params",
    unnecessary_when="CANN's batched asynchronous copy is as fast for scattered blocks as for one piece.",
    expires=(Expiry("vllm.v1.simple_kv_offload.cuda_mem_ops:copy_blocks", without="_batch_memcpy"),),
)
