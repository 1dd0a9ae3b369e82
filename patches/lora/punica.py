"""LoRA adapters: vLLM's Punica wrapper for GPUs, on our kernels."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Retarget, Variant

_PUNICA = "vllm.lora.punica_wrapper.punica_gpu"
_WRAPPER = f"{_PUNICA}:PunicaWrapperGPU"
_KERNELS = "ascend_patch.patches.lora._kernels"
_SHRINK = {"lora_shrink": "npu_lora_shrink"}
_EXPAND = {"lora_expand": "npu_lora_expand"}


def _with(shrink: str, expand: str) -> tuple[Add | Retarget, ...]:
    return (
        Add(f"{_PUNICA}:npu_lora_shrink", by=f"{_KERNELS}:{shrink}"),
        Add(f"{_PUNICA}:npu_lora_expand", by=f"{_KERNELS}:{expand}"),
        Add(f"{_PUNICA}:NPULoRAKernelMeta", by=f"{_KERNELS}:LoRAKernelMeta"),
        Retarget(f"{_WRAPPER}.__init__", names={"LoRAKernelMeta": "NPULoRAKernelMeta"}, sites=1),
        Retarget(f"{_WRAPPER}.add_shrink", names=_SHRINK, sites=1),
        Retarget(f"{_WRAPPER}.add_expand", names=_EXPAND, sites=1),
        Retarget(f"{_WRAPPER}.add_lora_embedding", names=_EXPAND, sites=1),
        Retarget(f"{_WRAPPER}.add_lora_logits", names={**_SHRINK, **_EXPAND}, sites=2),
    )


PATCH = Patch(
    id="lora.punica",
    why="The wrapper for GPUs imports its two kernels with Triton only; that for CPUs has strings of operators.",
    requires=("platform.npu",),
    variants=(
        Variant(versions=">=0.13.0,<0.16", rewrites=_with("early_lora_shrink", "early_lora_expand")),
        Variant(versions=">=0.16.0,<0.34", rewrites=_with("lora_shrink", "lora_expand")),
    ),
    upstream="vllm/lora/punica_wrapper/punica_gpu.py",
    unnecessary_when="torch-npu's batched gather matmul covers vLLM's shapes, and vLLM has a wrapper that calls it.",
    expires=(
        Expiry("vllm.lora.punica_wrapper.punica_npu:PunicaWrapperNPU"),
        Expiry("vllm.lora.punica_wrapper.punica_gpu:PunicaWrapperGPU.add_shrink", mentions="current_platform"),
    ),
)
