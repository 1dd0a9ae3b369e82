"""Two ways to run a kernel: through torch-npu and hostcann, and directly on its host build with every check on."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any

import pytest

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

ALLOCATION = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_size_t),
)

Simulate = Callable[..., Any]


class Environment(ctypes.Structure):
    """`ascendc_host_environment` of kernels/host/environment.h."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("allocation", ALLOCATION),
        ("checks", ctypes.c_uint32),
    )


@pytest.fixture(scope="session")
def npu() -> ModuleType:
    """torch with torch-npu on hostcann, in this process."""
    from ascend_patch import hostcann

    hostcann.load()
    import torch
    import torch_npu  # noqa: F401

    hostcann.attach()
    torch.npu.set_device(0)
    return torch


@pytest.fixture(scope="session")
def simulate() -> Simulate:
    """``simulate(package, *arguments, cores=3)``: a kernel's `launch` on CPU tensors, with the race checks on.

    Each tensor's storage counts as one device allocation, so that not one byte beyond it may be touched; on hostcann
    the caching allocator leaves room behind most tensors.
    """
    return _simulate


def _simulate(package: ModuleType, *arguments: Any, cores: int = 3) -> Any:
    from ascend_patch.kernels import loading

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "vector_cores", lambda: cores)
        patch.setattr(loading, "launch", partial(_launch, arguments))
        return package.launch(*arguments)


@cache
def _library(kernel: Any) -> ctypes.CDLL:
    from ascend_patch.kernels.building import host
    from ascend_patch.kernels.loading.targets import host_target

    return ctypes.CDLL(str(host.build(kernel) / f"{kernel.name}{host_target().suffix}"))


def _launch(named: tuple[Any, ...], kernel: Any, entry: str, blocks: int, *arguments: Any) -> None:
    import torch

    # Kernels that take addresses reach memory that only a list among the operator's arguments names.
    lists = [tensor for value in named if isinstance(value, list) for tensor in value]
    storages = [a.untyped_storage() for a in (*arguments, *lists) if isinstance(a, torch.Tensor)]
    memory = [(storage.data_ptr(), storage.nbytes()) for storage in storages]

    def allocation(_context: object, address: int, begin: Any, size: Any) -> int:
        for start, length in memory:
            if start <= address < start + length:
                begin[0], size[0] = start, length
                return 1
        return 0

    values = [a.data_ptr() if isinstance(a, torch.Tensor) else 0 if a is None else a for a in arguments]
    packed = struct.pack(kernel.layout, *values)
    environment = Environment(ctypes.sizeof(Environment), None, ALLOCATION(allocation), 1)
    message = ctypes.create_string_buffer(512)
    fault = getattr(_library(kernel), f"{entry}__ascendc_host_launch")(
        ctypes.c_uint32(blocks),
        packed,
        ctypes.c_size_t(len(packed)),
        ctypes.byref(environment),
        message,
        ctypes.c_size_t(len(message)),
    )
    assert fault == 0, message.value.decode()
