"""Multi-head latent attention (MLA) of the DeepSeek family."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Register, Replace, Variant
from ascend_patch.patches.attention._registering import backend

_PACKAGE = "ascend_patch.patches.attention"


def _backend(registry: str, path: str) -> Register:
    return backend(registry, "TRITON_MLA", path)


_DRIVING = f"{_PACKAGE}._latent_driver.DrivingLatentBackend"
_LATENT = _backend("vllm.v1.attention.backends.registry", f"{_PACKAGE}._latent.AscendLatentBackend")
_WRITE = Replace("vllm._custom_ops:concat_and_cache_mla", by=f"{_PACKAGE}._latent_cache:concat_and_cache_mla")
_PREFILL = Replace(
    "vllm.v1.attention.backends.mla.prefill.selector:get_mla_prefill_backend",
    by=f"{_PACKAGE}._latent_prefill:get_mla_prefill_backend",
)

PATCH = Patch(
    id="attention.latent",
    why="vLLM's latent attention runs on CUDA and Triton kernels; ours calls the NPU's operator for latent keys.",
    traced=False,
    requires=("attention.paged",),
    variants=(
        Variant(versions=">=0.13.0,<0.14", rewrites=(_backend("vllm.attention.backends.registry", _DRIVING), _WRITE)),
        Variant(
            versions=">=0.14.0,<0.16", rewrites=(_backend("vllm.v1.attention.backends.registry", _DRIVING), _WRITE)
        ),
        Variant(versions=">=0.16.0,<0.21", rewrites=(_LATENT, _WRITE)),
        Variant(versions=">=0.21.0,<0.34", rewrites=(_LATENT, _WRITE, _PREFILL)),
    ),
    upstream="vllm/model_executor/layers/attention/mla_attention.py",
    unnecessary_when="vLLM ships an MLA backend for Ascend NPUs.",
    expires=(
        Expiry("vllm.v1.attention.backends.registry:AttentionBackendEnum", mentions="NPU_MLA"),
        Expiry("vllm.v1.attention.backends.registry:AttentionBackendEnum", mentions="ASCEND_MLA"),
    ),
)
