"""Experts with int8 weights and activations."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

_FOLDER = "vllm.model_executor.layers.quantization.compressed_tensors"
_EARLY_MODULE = f"{_FOLDER}.compressed_tensors_moe"
_MODULE = f"{_EARLY_MODULE}.compressed_tensors_moe_w8a8_int8"
_CLASS = "CompressedTensorsW8A8Int8MoEMethod"
_EXPERTS = "ascend_patch.patches.quantization._int8_experts"


def _method(module: str, apply: str) -> tuple[Replace, ...]:
    return (
        Replace(f"{module}:{_CLASS}.process_weights_after_loading", by=f"{_EXPERTS}:process_weights_after_loading"),
        Replace(f"{module}:{_CLASS}.apply", by=f"{_EXPERTS}:{apply}"),
    )


_NO_BACKEND = Replace(f"{_MODULE}:select_int8_moe_backend", by=f"{_EXPERTS}:no_backend")
_NO_KERNEL = Replace(
    f"{_MODULE}:{_CLASS}.maybe_make_prepare_finalize", by="ascend_patch.patches.moe.experts:no_modular_kernel"
)
_APPLIED = _method(_MODULE, "apply")

PATCH = Patch(
    id="quantization.int8_experts",
    why="vLLM's experts in int8 are Triton kernels; out of tree it finds no backend for them and raises.",
    requires=("platform.npu", "moe.routing"),
    variants=(
        Variant(versions=">=0.13.0,<0.14", rewrites=_method(_EARLY_MODULE, "choose_and_apply")),
        Variant(versions=">=0.14.0,<0.15", rewrites=_method(_EARLY_MODULE, "apply_with_router")),
        Variant(versions=">=0.15.0,<0.20", rewrites=_method(_EARLY_MODULE, "apply_without_shared")),
        Variant(
            versions=">=0.20.0,<0.22",
            rewrites=(*_method(_MODULE, "apply_without_shared"), _NO_BACKEND, _NO_KERNEL),
        ),
        Variant(versions=">=0.22.0,<0.28", rewrites=(*_APPLIED, _NO_BACKEND, _NO_KERNEL)),
        Variant(versions=">=0.28.0,<0.34", rewrites=(*_APPLIED, _NO_BACKEND)),
    ),
    upstream="vllm/model_executor/layers/fused_moe/oracle/int8.py: an out-of-tree platform has no experts class",
    unnecessary_when="select_int8_moe_backend lets an out-of-tree platform bring its experts class.",
    expires=(Expiry("vllm.model_executor.layers.fused_moe.oracle.int8:backend_to_kernel_cls", mentions="OOT"),),
)
