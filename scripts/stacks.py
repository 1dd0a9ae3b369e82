"""Which torch, torch-npu and transformers belong to a vLLM version, read from the extras in pyproject.toml.

Nothing but pyproject.toml names these versions: the extra `vllm-0.32` holds the stack of vLLM 0.32.*, the
list `tested-vllm` of the table `tool.ascend-patch` the releases that are tested end to end.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_VLLM = "0.32.0"


class UnknownVersion(Exception):
    """No stack is known for a vLLM version; the message names those that are."""


@dataclass(frozen=True)
class Stack:
    """One vLLM release and what it runs on; versions as in `2.13.0`, transformers as a requirement."""

    vllm: str
    torch: str
    torch_npu: str
    transformers: str

    @property
    def is_default(self) -> bool:
        """Whether this is the stack that lives in the checkout's `.venv`."""
        return self.vllm == DEFAULT_VLLM

    @property
    def series(self) -> tuple[int, int]:
        """The first two numbers of its vLLM."""
        major, minor, *_ = map(int, self.vllm.split("."))
        return major, minor

    def folder_name(self, recipe: str) -> str:
        """The name of its environment in the cache: another content is another folder.

        `recipe` stands for everything else that decides the content: Python and how the packages are built.
        """
        text = "\n".join((self.vllm, self.torch, self.torch_npu, self.transformers, recipe))
        return f"vllm-{self.vllm}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _project() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


def tested_versions() -> list[str]:
    """The vLLM releases that are tested end to end."""
    versions: list[str] = _project()["tool"]["ascend-patch"]["tested-vllm"]
    return versions


def find(vllm: str) -> Stack:
    """The stack of a vLLM release such as `0.32.0`.

    Raises:
        UnknownVersion: no extra of pyproject.toml fits it.
    """
    extras = _project()["project"]["optional-dependencies"]
    known = [name.removeprefix("vllm-") for name in extras if name.startswith("vllm-")]
    series = re.match(r"\d+\.\d+(?=\.\d+$)", vllm)
    if series is None or series.group() not in known:
        raise UnknownVersion(
            f"There is no stack for vLLM {vllm}: pyproject.toml has extras for {', '.join(known)} "
            f"(write a release in full, like {DEFAULT_VLLM}). A new extra names its torch, torch-npu and transformers."
        )
    needs = {re.split(r"[=<>]", need)[0]: need for need in extras[f"vllm-{series.group()}"]}
    return Stack(
        vllm, needs["torch"].removeprefix("torch=="), needs["torch-npu"].removeprefix("torch-npu=="),
        needs["transformers"],
    )  # fmt: skip
