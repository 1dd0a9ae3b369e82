"""Which of vLLM's ways to offload a KV cache run on the NPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ascend_patch.engine.marks import ATTRIBUTE as MARK

if TYPE_CHECKING:
    from vllm.config import VllmConfig

SIMPLE, NATIVE = "SimpleCPUOffloadConnector", "OffloadingConnector"


def why_not(vllm_config: VllmConfig) -> str:
    """Why keys and values cannot be offloaded as this configuration wants it, with the remedy, or ""."""
    connector = _connector(vllm_config)
    has_simple = find_spec("vllm.v1.simple_kv_offload") is not None
    if connector == NATIVE and has_simple:
        return (
            f"{NATIVE} offloads the KV cache on CUDA and XPU only: {SIMPLE} does it on the NPU. Set"
            f" VLLM_USE_SIMPLE_KV_OFFLOAD=1 beside --kv-offloading-size, or name {SIMPLE} in --kv-transfer-config."
        )
    if connector not in (SIMPLE, NATIVE):
        return ""
    patch = "kv_offload.simple_cpu" if connector == SIMPLE else "kv_offload.offloading_connector"
    if _in_force(connector):
        return ""
    return f"{connector} needs the patch {patch}, which is not in force: 'ascend-patch show {patch}' says why."


def _connector(vllm_config: VllmConfig) -> str | None:
    """The connector that is asked for; vLLM makes one of ``--kv-offloading-size`` after the platform's checks."""
    from vllm import envs

    cache = vllm_config.cache_config
    if getattr(cache, "kv_offloading_size", None) and cache.kv_offloading_backend == "native":
        return SIMPLE if getattr(envs, "VLLM_USE_SIMPLE_KV_OFFLOAD", False) else NATIVE
    return getattr(vllm_config.kv_transfer_config, "kv_connector", None)


def _in_force(connector: str) -> bool:
    if connector == SIMPLE:
        from vllm.v1.simple_kv_offload.cuda_mem_ops import copy_blocks as ours
    else:
        from vllm.v1.kv_offload.worker.cpu_gpu import CpuGpuOffloadingHandlers

        ours = CpuGpuOffloadingHandlers.__init__
    return hasattr(ours, MARK)
