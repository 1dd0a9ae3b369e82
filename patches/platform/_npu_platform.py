"""The platform class that stock vLLM asks about its device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from vllm.logger import init_logger
from vllm.platforms.interface import Platform, PlatformEnum

from ascend_patch import npu
from ascend_patch.patches.attention._layout import KV_BLOCK_SIZE
from ascend_patch.patches.platform import _visible_devices
from ascend_patch.patches.platform._cache_types import users_type_wins
from ascend_patch.patches.platform._refusals import refuse, sleep_mode_refuses
from ascend_patch.patches.platform.environment import NAMES

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.ascend_patch.platform")


class NPUPlatform(Platform):
    """Ascend NPU, as an out-of-tree platform.

    ``device_name`` must be ``"npu"``: `GroupCoordinator` builds a device string
    from it for out-of-tree platforms.
    """

    _enum = PlatformEnum.OOT
    device_name = "npu"
    device_type = "npu"
    dispatch_key = "PrivateUse1"
    dist_backend = "hccl"
    device_control_env_var = "ASCEND_RT_VISIBLE_DEVICES"
    ray_device_key = "NPU"
    ray_noset_device_env_vars: ClassVar[list[str]] = ["RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES"]
    # Inductor generates Triton code, which does not exist for the NPU.
    simple_compile_backend = "eager"
    additional_env_vars: ClassVar[list[str]] = [
        *NAMES,
        "ASCEND_PATCH_DEVICE",
    ]

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return npu.device_name(device_id)

    @classmethod
    def get_device_uuid(cls, device_id: int = 0) -> str:
        return f"{npu.device_name(device_id)}-{cls.device_id_to_physical_device_id(device_id)}"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        return npu.total_memory(device_id)

    @classmethod
    def get_current_memory_usage(cls, device: torch.types.Device | None = None) -> float:
        torch.npu.reset_peak_memory_stats(device)
        return float(torch.npu.max_memory_allocated(device))

    @classmethod
    def num_compute_units(cls, device_id: int = 0) -> int:
        return npu.vector_core_count(device_id)

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        torch.npu.set_device(device)

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        torch.npu.manual_seed_all(seed)

    @classmethod
    def inference_mode(cls) -> Any:
        return torch.inference_mode(mode=True)

    @classmethod
    def check_if_supports_dtype(cls, dtype: torch.dtype) -> None:
        """Asked by a worker as soon as it has chosen its device, which is the moment to look at that, too."""
        _visible_devices.check(torch.npu.current_device())
        if dtype == torch.bfloat16 and not npu.supports_bfloat16():
            raise ValueError(
                f"{npu.device_name()} has no bfloat16: start vLLM with --dtype float16 (dtype='float16' for LLM)."
            )

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return True

    def is_sleep_mode_available(self) -> bool:
        """Asked only where a user wants sleep mode.

        Raises:
            ValueError: why there is none here, and what to do.
        """
        if reason := sleep_mode_refuses():
            raise ValueError(f"Sleep mode: {reason}")
        return True

    def is_cumem_allocator_available(self) -> bool:
        return False

    @classmethod
    def import_kernels(cls) -> None:
        """vLLM's compiled kernels are CUDA; there is nothing to import."""

    @classmethod
    def import_ir_kernels(cls) -> None:
        """Only the native implementations of vLLM's IR operators are ours to use."""

    @classmethod
    def opaque_attention_op(cls) -> bool:
        return True

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        return True

    @classmethod
    def support_static_graph_mode(cls) -> bool:
        return False

    @classmethod
    def check_runner_kv_caches_multi_layer(cls) -> None:
        """Several attention layers may share a layer index (draft models): nothing here forbids it."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        """The wrapper for GPUs, once ``lora.punica`` has given it its kernels.

        The one in plain PyTorch is no substitute: it gives requests without an adapter the last one's.

        Raises:
            ValueError: the patch is off.
        """
        from vllm.lora.punica_wrapper import punica_gpu

        if not hasattr(punica_gpu, "npu_lora_shrink"):
            raise ValueError("LoRA adapters need the patch lora.punica: run 'ascend-patch enable lora.punica'")
        return "vllm.lora.punica_wrapper.punica_gpu.PunicaWrapperGPU"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        return "ascend_patch.patches.comms._communicator.NPUCommunicator"

    @classmethod
    def get_attn_backend_cls(
        cls, selected_backend: Any, attn_selector_config: Any, num_heads: int | None = None
    ) -> str:
        from ascend_patch.patches.attention._interface import AttentionBackendEnum

        if attn_selector_config.use_sparse:
            raise ValueError("ascend_patch has no sparse attention yet: models like DeepSeek-V3.2 cannot run.")
        if selected_backend not in (None, AttentionBackendEnum.CUSTOM):
            raise ValueError(
                f"Attention backend {selected_backend.name} needs CUDA; on an NPU leave --attention-backend out."
            )
        if attn_selector_config.use_mla:
            return AttentionBackendEnum.TRITON_MLA.get_path()  # attention.latent has put its own in this place
        return AttentionBackendEnum.CUSTOM.get_path()

    @classmethod
    def get_vit_attn_backend(cls, head_size: int, dtype: torch.dtype, backend: Any = None) -> Any:
        """The name under which vision towers attend; what runs is `attention.vision`, or PyTorch without it."""
        from ascend_patch.patches.attention._interface import AttentionBackendEnum

        if backend not in (None, AttentionBackendEnum.TORCH_SDPA):
            raise ValueError(
                f"Vision attention backend {backend.name} needs CUDA; on an NPU leave --mm-encoder-attn-backend out."
            )
        return AttentionBackendEnum.TORCH_SDPA

    @classmethod
    def pre_register_and_update(cls, parser: Any = None) -> None:
        """Stay with model runner V1 unless told otherwise, also where a Triton for NPUs is installed."""
        os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")

    @classmethod
    def apply_config_platform_defaults(cls, vllm_config: VllmConfig) -> None:
        """Eager execution with every custom operator on.

        Runs before vLLM derives its own defaults, which would otherwise pick
        Inductor and switch the custom operators (our fused kernels) off.
        """
        from vllm.config import CompilationMode, CUDAGraphMode

        compilation = vllm_config.compilation_config
        compilation.mode = CompilationMode.NONE
        compilation.cudagraph_mode = CUDAGraphMode.NONE

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        """Choose vLLM's own worker and the block size of the NPU's paged attention."""
        if _uses_v2_model_runner(vllm_config) and not _runs_v2_model_runner():
            raise ValueError(
                "Model runner V2 needs the patch worker.model_runner_v2, which is off or does not cover this vLLM: run"
                " 'ascend-patch enable worker.model_runner_v2', or unset VLLM_USE_V2_MODEL_RUNNER and leave out what"
                " needs V2 (watermarking, HiSparse)."
            )
        refuse(vllm_config)
        users_type_wins(vllm_config)
        parallel = vllm_config.parallel_config
        if parallel.worker_cls == "auto":
            parallel.worker_cls = "vllm.v1.worker.gpu_worker.Worker"
        cache = vllm_config.cache_config
        if cache is None:
            return
        if cache.block_size is None:  # up to 0.17 the platform chooses, not the attention backend
            cache.block_size = KV_BLOCK_SIZE
        if getattr(cache, "user_specified_block_size", True) and cache.block_size % 16:
            raise ValueError(
                f"--block-size {cache.block_size} does not fit the NPU's paged attention, which wants a multiple of 16;"
                f" leave it out to use {KV_BLOCK_SIZE}."
            )


def _uses_v2_model_runner(vllm_config: VllmConfig) -> bool:
    """Up to 0.21 only the environment decides, afterwards the configuration, too."""
    if hasattr(vllm_config, "use_v2_model_runner"):
        return bool(vllm_config.use_v2_model_runner)
    from vllm import envs

    return bool(envs.VLLM_USE_V2_MODEL_RUNNER)


def _runs_v2_model_runner() -> bool:
    from vllm.config import vllm as module

    return hasattr(module, "NPU_RUNS_MODEL_RUNNER_V2")
