"""vLLM since 0.21 gives each layer an object for prompts; with our implementation nobody asks it anything."""

from __future__ import annotations

from typing import Any

from vllm.v1.attention.backends.mla.prefill.base import MLAPrefillBackend


class NoPrefillBackend(MLAPrefillBackend):
    """Stands where vLLM wants a prefill backend: `AscendLatentImpl.forward_mha` does the work itself."""

    @staticmethod
    def get_name() -> str:
        return "ASCEND"

    def run_prefill_new_tokens(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("AscendLatentImpl.forward_mha attends to new tokens")

    def run_prefill_context_chunk(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("AscendLatentImpl.forward_mha attends to the context")


def get_mla_prefill_backend(vllm_config: Any) -> type[MLAPrefillBackend]:
    """The only one there is.

    Raises:
        ValueError: another one is asked for.
    """
    asked = getattr(getattr(vllm_config, "attention_config", None), "mla_prefill_backend", None)
    if asked is not None:
        raise ValueError(f"MLA prefill backend {asked.name} needs CUDA; on an NPU leave mla_prefill_backend out.")
    return NoPrefillBackend
