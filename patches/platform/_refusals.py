"""What cannot run on the NPU yet is refused while the configuration is checked, before any process starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ascend_patch import npu
from ascend_patch.patches.comms._forms import chosen_form
from ascend_patch.patches.platform._cache_types import cache_type_refused

if TYPE_CHECKING:
    from vllm.config import VllmConfig


# What vLLM's manager of gathered tokens is chosen by; "naive" is a former name.
_BACKENDS = ("allgather_reducescatter", "naive")


def refuse(vllm_config: VllmConfig) -> None:
    """Name the first thing that this configuration needs and that would end in a Triton kernel.

    Raises:
        ValueError: there is such a thing.
    """
    for reason in (
        _state_space(vllm_config),
        _latent_attention(vllm_config),
        cache_type_refused(vllm_config),
        _engines(vllm_config),
        _experts(vllm_config),
        _adapters_of_experts(vllm_config),
        _drafting(vllm_config),
        _offloading(vllm_config),
    ):
        if reason:
            raise ValueError(reason)


def sleep_mode_refuses() -> str:
    """Why the engine could not sleep, or ""."""
    import vllm.device_allocator as allocators

    holder, name = allocators, "get_mem_allocator_instance"
    if not hasattr(holder, name):  # up to vLLM 0.22
        from vllm.device_allocator import cumem

        holder, name = cumem.CuMemAllocator, "get_instance"
    if not _is_ours(holder, name):
        return (
            "it needs the patch worker.sleep_mode, which is not in force: 'ascend-patch show worker.sleep_mode' says"
            " why."
        )
    reason = npu.virtual_memory_refuses()
    return reason and f"{reason}: leave --enable-sleep-mode out."


def _state_space(vllm_config: VllmConfig) -> str:
    model = vllm_config.model_config
    if model is None or not (model.has_inner_state or model.is_hybrid):
        return ""
    return (
        f"{', '.join(model.architectures)} has Mamba or other state-space layers, whose kernels are Triton:"
        " ascend_patch has none for the NPU yet. Choose a model with attention layers only."
    )


def _latent_attention(vllm_config: VllmConfig) -> str:
    model = vllm_config.model_config
    if model is None or not model.use_mla:
        return ""
    from ascend_patch.patches.attention._latent_limits import why_not

    reason = why_not(vllm_config)
    return reason and (
        f"Latent attention (MLA) of {', '.join(model.architectures)}: {reason}. VLLM_MLA_DISABLE=1 attends to whole"
        " keys and values instead, in a larger cache."
    )


def _engines(vllm_config: VllmConfig) -> str:
    parallel = vllm_config.parallel_config
    if parallel.data_parallel_size_local < 2 or getattr(parallel, "use_ray", False):
        return ""
    from vllm.v1.engine.utils import CoreEngineProcManager

    if "is_cuda_alike" not in CoreEngineProcManager.__init__.__code__.co_names:
        return ""
    return (
        f"{parallel.data_parallel_size_local} data-parallel engines of one server need the patch"
        " worker.data_parallel_devices, which is not in force: 'ascend-patch show worker.data_parallel_devices' says"
        " why."
    )


def _experts(vllm_config: VllmConfig) -> str:
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    if model is None or not model.get_num_experts():
        return ""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    if not _is_ours(UnquantizedFusedMoEMethod, "forward_oot"):
        return (
            f"The experts of {', '.join(model.architectures)} need the patch moe.experts, which is not in force:"
            " 'ascend-patch show moe.experts' says why."
        )
    chosen_form()
    gathers = parallel.enable_expert_parallel and parallel.data_parallel_size > 1
    if gathers and parallel.all2all_backend not in _BACKENDS:
        return (
            f"All-to-all backend {parallel.all2all_backend} is a library for CUDA: use --all2all-backend"
            " allgather_reducescatter."
        )
    return ""


def _adapters_of_experts(vllm_config: VllmConfig) -> str:
    model = vllm_config.model_config
    if vllm_config.lora_config is None or model is None or not model.get_num_experts():
        return ""
    from ascend_patch.patches.lora._limits import why_not

    reason = why_not(vllm_config)
    return reason and (
        f"LoRA adapters on the experts of {', '.join(model.architectures)}: {reason}. Adapters of other layers alone"
        " are served with --lora-target-modules, which names those layers (vLLM 0.19 or newer)."
    )


def _offloading(vllm_config: VllmConfig) -> str:
    if vllm_config.kv_transfer_config is None and not getattr(vllm_config.cache_config, "kv_offloading_size", None):
        return ""
    from ascend_patch.patches.kv_offload._limits import why_not

    return why_not(vllm_config)


def _drafting(vllm_config: VllmConfig) -> str:
    speculative = vllm_config.speculative_config
    method = getattr(speculative, "method", None)
    # Those of vLLM that draft without the proposer of the draft models.
    if method in (None, "ngram", "ngram_gpu", "suffix", "medusa", "custom_class"):
        return ""
    from vllm.v1.spec_decode import utils

    if not _is_ours(utils, "eagle_prepare_next_token_padded_kernel", "_eagle_prepare_next_token_padded"):
        return (
            f"Speculative method {method} needs the patch spec_decode.drafting, which is not in force:"
            " 'ascend-patch show spec_decode.drafting' says why."
        )
    if method == "draft_model" and not _is_ours(
        utils, "copy_and_expand_eagle_inputs_kernel", "_copy_and_expand_eagle_inputs"
    ):
        return (
            "A draft model of its own (method draft_model) prepares its inputs with a Triton kernel up to vLLM 0.15,"
            " which ascend_patch has no counterpart for: use vLLM 0.16 or newer, or another method."
        )
    return ""


def _is_ours(module: object, *names: str) -> bool:
    functions = (getattr(module, name, None) for name in names)
    return any((getattr(function, "__module__", None) or "").startswith("ascend_patch.") for function in functions)
