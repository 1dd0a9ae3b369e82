"""vLLM must know each of our variables that begins with its prefix: it warns of others, or refuses them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ascend_patch.patches.platform import environment

VARIABLE = re.compile(r"VLLM_ASCEND_[A-Z_]*[A-Z]")


def test_every_documented_or_used_variable_is_declared(checkout: Path) -> None:
    sources = [*checkout.glob("ascend_patch/**/*.py"), *checkout.glob("patches/**/*.py"), checkout / "README.md"]
    named = {name for path in sources for name in VARIABLE.findall(path.read_text("utf-8"))}
    assert named == set(environment.NAMES)


@pytest.mark.parametrize("name", environment.NAMES)
def test_each_is_read_when_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert vars(environment)[name]() == "1"
    monkeypatch.delenv(name)
    assert vars(environment)[name]() is None
