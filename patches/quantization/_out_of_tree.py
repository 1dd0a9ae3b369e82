"""What vLLM chooses from, by platform or by name: the entries of platforms out of tree."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Register


def kernels(mapping: str, ours: str) -> tuple[Register, ...]:
    """Put the list `ours` refers to into the `mapping` that vLLM chooses kernels from."""
    platform = "vllm.platforms.interface:PlatformEnum.OOT"
    return (Register(mapping, key=platform, value=ours, key_by_reference=True),)


def configurations(**references: str) -> tuple[Register, ...]:
    """Put our configurations into vLLM's mapping of those that go before its own, by a method's name."""
    mapping = "vllm.model_executor.layers.quantization:_CUSTOMIZED_METHOD_TO_QUANT_CONFIG"
    return tuple(Register(mapping, key=name, value=reference) for name, reference in references.items())
