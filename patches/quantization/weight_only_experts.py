"""Experts of compressed-tensors checkpoints whose weights alone are quantized, to four or eight bits."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

_OLD = "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe"
_NEW = f"{_OLD}.compressed_tensors_moe"
_CHOICE = "CompressedTensorsMoEMethod.get_moe_method"
_OURS = "ascend_patch.patches.quantization._compressed_experts:weight_only"

PATCH = Patch(
    id="quantization.weight_only_experts",
    why="vLLM multiplies experts of W4A16 and W8A16 checkpoints with CUDA's kernels or Triton's; an NPU has neither.",
    requires=("platform.npu", "moe.routing"),
    variants=(
        Variant(versions=">=0.13.0,<0.20", rewrites=(Wrap(f"{_OLD}:{_CHOICE}", by=_OURS),)),
        Variant(versions=">=0.20.0,<0.34", rewrites=(Wrap(f"{_NEW}:{_CHOICE}", by=_OURS),)),
    ),
    upstream="vllm/model_executor/layers/fused_moe/oracle/int_wna16.py: no backend for an out-of-tree platform",
    unnecessary_when="select_wna16_moe_backend lets an out-of-tree platform bring its experts class.",
    expires=(Expiry("vllm.model_executor.layers.fused_moe.oracle.int_wna16:backend_to_kernel_cls", mentions="OOT"),),
)
