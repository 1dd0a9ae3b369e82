"""Loads the libraries into the process and installs the `aten::` fallback."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading

from ascend_patch.hostcann import _build
from ascend_patch.hostcann._paths import LIBRARIES, HostCannError

_log = logging.getLogger("ascend_patch.hostcann")
_lock = threading.RLock()
_handles: dict[str, ctypes.CDLL] = {}
_attached = False


def is_loaded() -> bool:
    """Whether `load` has succeeded in this process (or in the process it was forked from)."""
    return bool(_handles)


def handle(name: str) -> ctypes.CDLL:
    """The loaded library `lib<name>.so`."""
    if name not in _handles:
        raise HostCannError(f"lib{name}.so of hostcann is not loaded: call ascend_patch.hostcann.load() first")
    return _handles[name]


def load() -> None:
    """See `ascend_patch.hostcann.load`."""
    with _lock:
        if _handles:
            return
        if "torch_npu._C" in sys.modules:
            raise HostCannError("hostcann.load() came too late: torch_npu is imported already")
        folder = _build.build()
        # torch-npu's queue thread buys nothing here: the aten fallback runs in the caller's thread and waits for it.
        os.environ.setdefault("TASK_QUEUE_ENABLE", "0")
        # vLLM takes all but one thread away from torch unless it finds this set; here torch's threads are the device.
        os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
        loaded: dict[str, ctypes.CDLL] = {}
        for library in LIBRARIES:
            path = folder / library.file
            if not path.exists():
                continue
            try:
                loaded[library.name] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise HostCannError(
                    f"hostcann cannot load {path.name}: {error}; "
                    "run `python -m ascend_patch.hostcann clean` and try again"
                ) from error
        if "aten" in loaded:
            loaded["aten"].hostcann_aten_prepare()
        _handles.update(loaded)
        if not os.environ.get("HOSTCANN_ANNOUNCED"):
            # Once per process tree: workers inherit the variable.
            os.environ["HOSTCANN_ANNOUNCED"] = "1"
            print("hostcann: emulating CANN on the CPU, not an NPU (for tests and development)", file=sys.stderr)


def attach() -> None:
    """See `ascend_patch.hostcann.attach`."""
    global _attached
    with _lock:
        if _attached:
            return
        if not _handles:
            raise HostCannError("hostcann.attach() needs hostcann.load() before torch_npu is imported")
        if "torch_npu" not in sys.modules:
            raise HostCannError("hostcann.attach() needs torch_npu to be imported first")
        install = handle("aten").hostcann_aten_install
        install.restype = ctypes.c_char_p
        problem = install()
        if problem:
            raise HostCannError(f"hostcann cannot install its aten fallback: {problem.decode()}")
        _attached = True
