"""Memory and properties of the device are asked of the NPU."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Patch, Replace, Retarget, Variant

_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_MEMORY = "vllm.utils.mem_utils"
_TO_NPU = {"cuda": "npu"}

_SYNCHRONIZE = (Retarget(f"{_RUNNER}._sync_device", names=_TO_NPU, sites=1),)
_PROPERTIES = (Replace(f"{_RUNNER}._init_device_properties", by=":vector_cores_for_multiprocessors"), *_SYNCHRONIZE)

# torch.npu has the same functions. Those of torch.accelerator want a kind of allocator that torch-npu 2.10 and 2.11,
# which these vLLM versions are used with, do not have.
_ACCELERATOR_TO_NPU = {"accelerator": "npu"}
_ALLOCATOR = tuple(
    Retarget(target, names=_ACCELERATOR_TO_NPU, sites=1)
    for target in (
        "vllm.v1.worker.gpu_worker:Worker.determine_available_memory",
        f"{_MEMORY}:MemorySnapshot.measure",
        f"{_MEMORY}:memory_profiling",
        f"{_RUNNER}._cleanup_profiling_kv_cache",
        "vllm.distributed.parallel_state:cleanup_dist_env_and_memory",
    )
)

PATCH = Patch(
    id="worker.device_queries",
    why="Early vLLM asks torch.cuda, or torch.accelerator before that knew NPUs, for the device's memory.",
    required=True,
    requires=("worker.init_device",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.15",
            rewrites=(
                Retarget("vllm.v1.worker.gpu_worker:Worker.determine_available_memory", names=_TO_NPU, sites=1),
                Retarget(f"{_MEMORY}:MemorySnapshot.measure", names=_TO_NPU, sites=1),
                Retarget(f"{_MEMORY}:memory_profiling", names=_TO_NPU, sites=1),
                *_PROPERTIES,
            ),
        ),
        Variant(versions=">=0.15.0,<0.17", rewrites=_PROPERTIES),
        Variant(versions=">=0.17.0,<0.18", rewrites=_SYNCHRONIZE),
        Variant(versions=">=0.18.0,<0.23", rewrites=_ALLOCATOR),
        Variant(
            versions=">=0.23.0,<0.27",
            rewrites=(*_ALLOCATOR, Retarget(f"{_RUNNER}.shutdown", names=_ACCELERATOR_TO_NPU, sites=1)),
        ),
        Variant(versions=">=0.27.0,<0.34", unneeded="torch.accelerator serves the NPU as of torch-npu 2.13."),
    ),
    upstream="vllm/utils/mem_utils.py, vllm/v1/worker/gpu_model_runner.py",
    unnecessary_when="The oldest supported vLLM is 0.27.",
    no_sign="it depends on whether the torch-npu of a version serves torch.accelerator; vLLM asks that either way.",
)


def vector_cores_for_multiprocessors(self: Any) -> None:
    """``num_sms`` is what `Platform.num_compute_units` says in later versions."""
    self.num_sms = npu.vector_core_count(self.device.index)
