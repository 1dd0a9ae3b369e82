from __future__ import annotations

import os
from typing import Any

import pytest

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"


@pytest.fixture
def device() -> Any:
    """Device 0 of hostcann."""
    from ascend_patch import hostcann

    hostcann.load()
    import torch
    import torch_npu  # noqa: F401

    hostcann.attach()
    torch.npu.set_device(0)
    return torch.device("npu:0")
