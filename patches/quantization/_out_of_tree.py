"""vLLM's kernels for quantized linear layers, by platform: the entry of those out of tree."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Register


def kernels(mapping: str, ours: str) -> tuple[Register, ...]:
    """Put the list `ours` refers to into the `mapping` that vLLM chooses kernels from."""
    platform = "vllm.platforms.interface:PlatformEnum.OOT"
    return (Register(mapping, key=platform, value=ours, key_by_reference=True),)
