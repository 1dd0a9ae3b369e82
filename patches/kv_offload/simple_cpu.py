"""Offloading the KV cache to host memory or disk with SimpleCPUOffloadConnector."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Replace, Retarget, Rewrite, Variant, Wrap

_MEMORY = "vllm.v1.simple_kv_offload.cuda_mem_ops"
_WORKER = "vllm.v1.simple_kv_offload.worker"
_TRANSFERS = "ascend_patch.patches.kv_offload._transfers"

_REGISTER = f"{_WORKER}:SimpleCPUOffloadWorker.register_kv_caches"
_EVERYWHERE: tuple[Rewrite, ...] = (
    Replace(f"{_MEMORY}:pin_tensor", by=f"{_TRANSFERS}:pin_tensor"),
    Replace(f"{_MEMORY}:build_params", by=f"{_TRANSFERS}:build_params"),
    Replace(f"{_MEMORY}:copy_blocks", by=f"{_TRANSFERS}:copy_blocks"),
    Add(f"{_WORKER}:npu_torch", by=f"{_TRANSFERS}:Torch"),
)
_NESTED = Retarget(_REGISTER, names={"torch": "npu_torch"}, sites=2)

PATCH = Patch(
    id="kv_offload.simple_cpu",
    why="The connector pins memory and copies blocks through the CUDA driver; torch-npu's copies do the same.",
    requires=("worker.init_device",),
    variants=(
        Variant(
            versions=">=0.19.0,<0.24",
            rewrites=(
                *_EVERYWHERE,
                _NESTED,
                Wrap(f"{_WORKER}:SimpleCPUOffloadWorker.get_finished", by=f"{_TRANSFERS}:after_the_step"),
            ),
        ),
        Variant(
            versions=">=0.24.0,<0.29",
            rewrites=(
                *_EVERYWHERE,
                _NESTED,
                Retarget(f"{_WORKER}:SimpleCPUOffloadWorker.get_finished", names={"cuda": "npu"}, sites=1),
            ),
        ),
        Variant(
            versions=">=0.29.0,<0.34",
            rewrites=(
                *_EVERYWHERE,
                Retarget(_REGISTER, names={"torch": "npu_torch"}, sites=1),
                Retarget(f"{_WORKER}:SimpleCPUOffloadWorker.wait_for_save", names={"cuda": "npu"}, sites=1),
            ),
        ),
    ),
    upstream="vllm/v1/simple_kv_offload/cuda_mem_ops.py, vllm/v1/simple_kv_offload/worker.py",
    unnecessary_when="The copy backend of SimpleCPUOffloadConnector is the platform's choice.",
    expires=(Expiry(_REGISTER, without="torch.cuda"),),
)
