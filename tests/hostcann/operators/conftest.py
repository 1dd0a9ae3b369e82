"""The real torch-npu on hostcann, in this process, and the constraint tables of libopapi."""

from __future__ import annotations

import ctypes
import json
import os
from typing import Any

import pytest

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"


@pytest.fixture(scope="session", autouse=True)
def device() -> Any:
    """Device 0 of hostcann; skips nothing: without it no operator can be tested."""
    from ascend_patch import hostcann

    hostcann.load()
    import torch
    import torch_npu

    hostcann.attach()
    torch.npu.set_device(0)
    torch_npu.npu.set_compile_mode(jit_compile=False)
    return torch.device("npu:0")


@pytest.fixture(scope="session")
def opapi(device: Any) -> ctypes.CDLL:
    """libopapi itself, for what torch-npu never passes down."""
    from ascend_patch.hostcann import _loader

    return _loader.handle("opapi")


@pytest.fixture(scope="session")
def tables(opapi: ctypes.CDLL) -> dict[str, Any]:
    """Every constraint table by operator name."""
    opapi.hostcannOperatorTables.restype = ctypes.c_char_p
    return {table["name"]: table for table in json.loads(opapi.hostcannOperatorTables())}
