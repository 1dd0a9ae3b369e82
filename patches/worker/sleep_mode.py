"""Sleep mode: weights go to the host or are forgotten, the KV cache is forgotten, and the device's memory is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Retarget, Variant, Wrap

_WORKER = "vllm.v1.worker.gpu_worker:Worker"
_ALLOCATORS = "vllm.device_allocator:get_mem_allocator_instance"
_ASKS_CUDA_FOR_MEMORY = Retarget(f"{_WORKER}.sleep", names={"cuda": "npu"})
_OF_CUDA = Replace(
    "vllm.device_allocator.cumem:CuMemAllocator.get_instance",
    by="ascend_patch.patches.worker._sleeping_memory:sleeping_memory",
)
_OURS = Replace(_ALLOCATORS, by="ascend_patch.patches.worker._sleeping_memory:sleeping_memory")

PATCH = Patch(
    id="worker.sleep_mode",
    why=(
        "vLLM's allocator of sleep mode is a CUDA library; ours maps and unmaps device memory through CANN's virtual"
        " memory. RL trainers put the engine to sleep between rollouts."
    ),
    requires=("worker.init_device", "worker.memory_pool"),
    variants=(
        Variant(versions=">=0.13.0,<0.14", rewrites=(_OF_CUDA, _ASKS_CUDA_FOR_MEMORY)),
        Variant(
            versions=">=0.14.0,<0.17",
            rewrites=(_OF_CUDA, _ASKS_CUDA_FOR_MEMORY, Wrap(f"{_WORKER}.load_model", by=":with_memory_of_weights")),
        ),
        Variant(versions=">=0.17.0,<0.23", rewrites=(_OF_CUDA, _ASKS_CUDA_FOR_MEMORY)),
        Variant(versions=">=0.23.0,<0.25", rewrites=(_OURS, _ASKS_CUDA_FOR_MEMORY)),
        Variant(versions=">=0.25.0,<0.34", rewrites=(_OURS,)),
    ),
    upstream="vllm/device_allocator/cumem.py, vllm/device_allocator/__init__.py",
    unnecessary_when="vLLM asks the platform for the allocator of sleep mode.",
    expires=(Expiry(_ALLOCATORS, without="is_cuda_alike"),),
)


def with_memory_of_weights(original: Callable[..., None]) -> Callable[..., None]:
    """These versions join two contexts with `and`, which enters the second alone: weights would never sleep."""

    def load_model(self: Any, *arguments: Any, **options: Any) -> None:
        with self._maybe_get_memory_pool_context(tag="weights"):
            original(self, *arguments, **options)

    return load_model
