"""Putting a backend of ours into vLLM's registry, whose keys are members of an enumeration."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Register


def backend(registry: str, member: str, path: str) -> Register:
    """The class at the dotted `path` stands for `member` of the enumeration in the module `registry`."""
    return Register(
        f"{registry}:_ATTN_OVERRIDES",
        key=f"{registry}:AttentionBackendEnum.{member}",
        key_by_reference=True,
        value=path,
        literal=True,
    )
