"""hostcann: CANN for the CPU. The real torch-npu runs on it unmodified, on a machine without an NPU.

Two calls, in this order around the import of torch_npu:

    hostcann.load()      # before torch_npu executes
    import torch_npu
    hostcann.attach()    # after it

Importing this package does nothing and imports nothing heavy. It is a test and development device:
whatever runs on it is no NPU result.
"""

from __future__ import annotations

from pathlib import Path

from ascend_patch.hostcann._paths import HostCannError, cache_root

__all__ = ["HostCannError", "attach", "built", "cache_root", "is_loaded", "load", "trace"]


def load() -> None:
    """Builds the libraries if needed and loads them, so that torch_npu finds its CANN. Idempotent.

    Must be called before torch_npu executes; torch may be half imported (its device backend autoload).
    Raises HostCannError: no compiler, a failed compilation, torch missing, or torch_npu imported already.
    """
    from ascend_patch.hostcann import _loader

    _loader.load()


def attach() -> None:
    """Routes the `aten::` operators of NPU tensors to the CPU kernels. Idempotent; initialises no device.

    Must be called after torch_npu was imported. Raises HostCannError if `load` was not called before.
    """
    from ascend_patch.hostcann import _loader

    _loader.attach()


def built() -> Path | None:
    """The folder with libraries built from the present sources; None before the first build.

    Raises HostCannError: torch missing. OSError: the cache cannot be read.
    """
    from ascend_patch.hostcann import _build

    return _build.find()


def is_loaded() -> bool:
    """Whether this process runs on hostcann."""
    from ascend_patch.hostcann import _loader

    return _loader.is_loaded()


def __getattr__(name: str) -> object:
    if name == "trace":
        import importlib

        return importlib.import_module("ascend_patch.hostcann.trace")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
