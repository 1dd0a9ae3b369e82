"""What LoRA adapters on experts cannot do on the NPU, told from the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ascend_patch.engine.marks import ATTRIBUTE as MARK

if TYPE_CHECKING:
    from vllm.config import VllmConfig

MATRICES = 1024
"""Most matrices of one grouped product (CANN ops-transformer, aclnnGroupedMatmulV4, constraints on groups)."""
ROUTED = 10240
"""Most experts that tokens are sorted by (CANN ops-transformer, aclnnMoeInitRoutingV3, expertNum)."""


def why_not(vllm_config: VllmConfig) -> str:
    """The first reason why a mixture of experts cannot have LoRA adapters here, or ""."""
    lora, model, parallel = vllm_config.lora_config, vllm_config.model_config, vllm_config.parallel_config
    if lora is None or not _reaches_experts(getattr(lora, "target_modules", None)):
        return ""
    from vllm.lora.layers.fused_moe import FusedMoEWithLoRA

    if not hasattr(FusedMoEWithLoRA._create_lora_a_weights, MARK):
        return "they need the patch lora.experts: run 'ascend-patch enable lora.experts'"
    if parallel.data_parallel_size > 1 or getattr(parallel, "prefill_context_parallel_size", 1) > 1:
        return (
            "tokens of other ranks would come without their adapters: use --tensor-parallel-size instead of data or"
            " context parallelism"
        )
    if parallel.enable_expert_parallel and not hasattr(FusedMoEWithLoRA, "_verify_ep_fs"):
        return (
            "vLLM up to 0.20 has none on experts that ranks share out whole: leave --enable-expert-parallel out, or use"
            " vLLM 0.21 or newer"
        )
    if parallel.enable_expert_parallel and lora.fully_sharded_loras:
        return (
            "vLLM has no shares of an adapter on experts that ranks share out whole: leave --enable-expert-parallel or"
            " --fully-sharded-loras out"
        )
    if getattr(parallel, "enable_eplb", False):
        return "adapters do not follow experts that move: leave --enable-eplb out"
    if getattr(lora, "enable_moe_shared_loras", False):
        return "a matrix that all experts share has no operator here yet: leave --enable-moe-shared-loras out"
    if lora.fully_sharded_loras and "shard_size" not in FusedMoEWithLoRA._slice_w13_a.__code__.co_varnames:
        return (
            "vLLM 0.13 shares adapters below --max-lora-rank out wrongly: leave --fully-sharded-loras out, or use vLLM"
            " 0.14 or newer"
        )
    dtype = str(lora.lora_dtype).removeprefix("torch.")
    if dtype not in ("None", "auto", str(model.dtype).removeprefix("torch.")):
        return f"they are of the model's type, not {dtype}: leave --lora-dtype out"
    experts = model.get_num_experts()
    held = -(-experts // parallel.tensor_parallel_size) if parallel.enable_expert_parallel else experts
    slots = min(MATRICES // held, ROUTED // experts)
    if lora.max_loras > slots:
        return (
            f"an operator takes {MATRICES} matrices, so {held} experts of a rank have room for {slots} adapters in a"
            f" batch and --max-loras asks for {lora.max_loras}: lower it"
        )
    return ""


def _reaches_experts(target_modules: list[str] | None) -> bool:
    """Whether ``--lora-target-modules`` lets vLLM give its layers of experts adapters; up to 0.18 nothing stops it."""
    return target_modules is None or any("experts" in name.split(".") for name in target_modules)
