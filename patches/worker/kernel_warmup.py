"""No warm-up of kernels that an NPU does not run."""

from __future__ import annotations

from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

PATCH = Patch(
    id="worker.kernel_warmup",
    why="kernel_warmup compiles and tunes CUDA and Triton kernels and imports CUDA-only model files to do so.",
    required=True,
    requires=("worker.init_device",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Replace("vllm.model_executor.warmup.kernel_warmup:kernel_warmup", by=":no_cuda_kernels_to_warm_up"),
            ),
        ),
    ),
    upstream="vllm/model_executor/warmup/kernel_warmup.py",
    unnecessary_when="kernel_warmup asks the platform before it imports CUDA-only modules.",
    expires=(
        Expiry("vllm.model_executor.warmup.kernel_warmup:kernel_warmup", mentions="is_cuda_alike"),
        Expiry("vllm.model_executor.warmup.kernel_warmup:kernel_warmup", mentions="is_out_of_tree"),
    ),
)


def no_cuda_kernels_to_warm_up(worker: Any, *, process_local_only: bool = False) -> None:
    """CANN's operators are compiled ahead of time: there is nothing to warm up."""
