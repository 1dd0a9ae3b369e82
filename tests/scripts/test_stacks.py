"""The stacks of vLLM versions, as scripts/stacks.py reads them from pyproject.toml."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stacks


def test_every_release_that_is_tested_has_a_stack() -> None:
    assert stacks.DEFAULT_VLLM in stacks.tested_versions()
    for version in stacks.tested_versions():
        stack = stacks.find(version)
        assert stack.transformers.startswith("transformers")
        # torch-npu's version is that of its torch, with a post-release at most.
        assert stack.torch_npu.split(".post")[0] == stack.torch


@pytest.mark.parametrize("version", ["0.32", "0.1.0", "0.32.0rc1", "1.0.32.0", "newest", ""])
def test_a_release_without_a_stack_is_refused_with_those_that_have_one(version: str) -> None:
    with pytest.raises(stacks.UnknownVersion, match=r"0\.32"):
        stacks.find(version)


def test_another_content_is_another_folder() -> None:
    stack = stacks.find(stacks.DEFAULT_VLLM)
    others = [dataclasses.replace(stack, **{name: "9"}) for name in ("vllm", "torch", "torch_npu", "transformers")]
    names = [stack.folder_name("r"), stack.folder_name("s"), *(other.folder_name("r") for other in others)]
    assert len(set(names)) == len(names)
    assert stack.folder_name("r") == dataclasses.replace(stack).folder_name("r")


def test_setup_refuses_an_unknown_release_in_one_line(checkout: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(checkout / "scripts" / "setup.py"), "--vllm", "0.1.0"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no stack for vLLM 0.1.0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())
