"""Counts of operators, copies and synchronisations of this process.

`HOSTCANN_TRACE=path` writes them at exit; the functions here record a part of a run.

The snapshot is a dictionary: `aclnn`, `aten`, `copy`, `sync`, `hccl` map names to `{"calls": n, "bytes": n}`;
`launches` is the number of device operations, `syncs` of host synchronisations.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ascend_patch.hostcann import _loader

Counts = dict[str, Any]


def _library() -> ctypes.CDLL:
    return _loader.handle("ascendcl")


def start() -> None:
    """Records from now on, adding to what was recorded before."""
    _library().hostcann_trace_start()


def stop() -> None:
    """Stops recording; the counts stay."""
    _library().hostcann_trace_stop()


def reset() -> None:
    """Sets all counts to zero."""
    _library().hostcann_trace_reset()


def snapshot() -> Counts:
    """The counts so far."""
    function = _library().hostcann_trace_snapshot
    function.restype = ctypes.c_size_t
    size = function(None, ctypes.c_size_t(0))
    while True:
        buffer = ctypes.create_string_buffer(size)
        needed = function(buffer, ctypes.c_size_t(size))
        if needed <= size:
            counts: Counts = json.loads(buffer.value)
            return counts
        size = needed


@contextmanager
def recording() -> Iterator[Callable[[], Counts]]:
    """Records the body of a `with` from zero; the value is a function that gives the counts."""
    reset()
    start()
    try:
        yield snapshot
    finally:
        stop()
