"""How these tests reach an NPU: hostcann loaded in this process, or in a process of its own with other settings."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

PRELUDE = """
import os
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
import torch
from ascend_patch import hostcann
hostcann.load()
import torch_npu
hostcann.attach()
"""
CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def torch_on_npu() -> ModuleType:
    """torch with torch-npu on hostcann, in this process, with the default settings."""
    import torch

    from ascend_patch import hostcann

    hostcann.load()
    import torch_npu  # noqa: F401

    hostcann.attach()
    return torch


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run() -> Run:
    """Runs Python code in a new process after the prelude; keyword arguments are environment variables.

    `prelude=False` leaves the prelude out; the process must end with `code` (default 0).
    """

    def start(source: str, *, prelude: bool = True, code: int | None = 0, **environment: Any) -> Any:
        text = (PRELUDE if prelude else "") + textwrap.dedent(source)
        variables = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            **{key: str(value) for key, value in environment.items()},
        }
        done = subprocess.run([sys.executable, "-c", text], env=variables, capture_output=True, text=True, timeout=120)
        assert code is None or done.returncode == code, done.stderr[-4000:] + done.stdout[-2000:]
        return done

    return start
