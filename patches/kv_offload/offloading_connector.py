"""Offloading the KV cache to host memory with OffloadingConnector, until SimpleCPUOffloadConnector came (0.19)."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Retarget, Rewrite, Variant, Wrap

_SPEC = "vllm.v1.kv_offload.cpu:CPUOffloadingSpec.get_handlers"
_WORKER = "vllm.v1.kv_offload.worker.cpu_gpu"
_DIRECTION = f"{_WORKER}:SingleDirectionOffloadingHandler"
_OURS = "ascend_patch.patches.kv_offload._connector"

_EVERYWHERE: tuple[Rewrite, ...] = (
    Retarget(_SPEC, names={"is_cuda_alike": "is_out_of_tree"}, sites=1),
    Wrap(f"{_WORKER}:CpuGpuOffloadingHandlers.__init__", by=f"{_OURS}:plane_by_plane"),
)
_WHICH_WAY = Retarget(f"{_DIRECTION}.__init__", names={"is_cuda": "is_npu"}, sites=1)
_STREAMS = Retarget(f"{_DIRECTION}.transfer_async", names={"cuda": "npu"}, sites=1)
_ROWS = Replace("vllm._custom_ops:swap_blocks", by=f"{_OURS}:swap_rows")
_BYTES = Replace("vllm._custom_ops:swap_blocks", by=f"{_OURS}:swap_blocks")

PATCH = Patch(
    id="kv_offload.offloading_connector",
    why="The connector copies blocks through CUDA streams and a CUDA kernel; torch-npu's copies do the same.",
    requires=("worker.init_device",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.14",
            rewrites=(
                *_EVERYWHERE,
                _STREAMS,
                Wrap(f"{_DIRECTION}.transfer_async", by=f"{_OURS}:after_the_step"),
                _ROWS,
            ),
        ),
        Variant(versions=">=0.14.0,<0.15", rewrites=(*_EVERYWHERE, _WHICH_WAY, _STREAMS, _ROWS)),
        Variant(versions=">=0.15.0,<0.19", rewrites=(*_EVERYWHERE, _WHICH_WAY, _STREAMS, _BYTES)),
    ),
    upstream="vllm/v1/kv_offload/worker/cpu_gpu.py, vllm/v1/kv_offload/cpu.py",
    unnecessary_when="The handlers of CPUOffloadingSpec take their streams and copies from the platform.",
    expires=(Expiry(f"{_DIRECTION}.transfer_async", without="torch.cuda"),),
)
