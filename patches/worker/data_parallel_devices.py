"""Data-parallel engines of one server each find their own devices."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Retarget, Variant

_MANAGER = "vllm.v1.engine.utils:CoreEngineProcManager.__init__"

PATCH = Patch(
    id="worker.data_parallel_devices",
    why=(
        "A server with --data-parallel-size shows each engine only its share of the devices, unless they are CUDA's;"
        " the worker for GPUs, which is ours, counts over all of them."
    ),
    requires=("worker.init_device",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(Retarget(_MANAGER, names={"is_cuda_alike": "is_out_of_tree"}),),
        ),
    ),
    upstream="vllm/v1/engine/utils.py, CoreEngineProcManager",
    unnecessary_when="vLLM asks the platform, or the worker, whether engines see only their own devices.",
    expires=(Expiry(_MANAGER, without="is_cuda_alike"),),
)
