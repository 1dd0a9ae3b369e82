"""The few calls of libascendcl that load and launch kernels; the same library name on an NPU and on hostcann."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

from ascend_patch.kernels.declaration import KernelUnavailable

LAUNCH = "aclrtLaunchKernelWithHostArgs"
"""Takes the flat argument buffer from the host. In CANN since 8.3; torch-npu's own generated code uses it too."""

_ELF_VECTOR_CORE = 0x41415246
_OPTION_MAGIC = 2


class _Option(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_uint32 * 4))


class _Options(ctypes.Structure):
    _fields_ = (("options", ctypes.POINTER(_Option)), ("count", ctypes.c_size_t))


class AclError(RuntimeError):
    """A call failed; the message holds its name, the code and what the runtime says about it."""


@cache
def library() -> ctypes.CDLL:
    """libascendcl as torch_npu loaded it.

    Raises:
        KernelUnavailable: none is loaded, or it cannot launch kernels from host arguments.
    """
    try:
        # torch_npu loaded it already: the linker then finds it by its soname, wherever it is.
        found = ctypes.CDLL("libascendcl.so", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        raise KernelUnavailable("libascendcl.so is not loaded: import torch_npu first") from None
    if not hasattr(found, LAUNCH):
        raise KernelUnavailable(f"this CANN has no {LAUNCH}: install CANN 8.5 or newer")
    found.aclrtGetSocName.restype = ctypes.c_char_p
    found.aclGetRecentErrMsg.restype = ctypes.c_char_p
    found.aclrtBinaryLoadFromData.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t),
        *(ctypes.POINTER(_Options), ctypes.c_void_p),
    )
    found.aclrtBinaryGetFunction.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    found.aclrtBinaryUnLoad.argtypes = (ctypes.c_void_p,)
    return found


def soc_name() -> str:
    """The SoC as CANN calls it, e.g. ``Ascend910B3``."""
    return (library().aclrtGetSocName() or b"").decode()


def on_host() -> bool:
    """Whether this CANN runs on the CPU, and so takes host builds: hostcann exports names of its own beside CANN's."""
    return hasattr(library(), "hostcann_trace_snapshot")


def load(data: bytes) -> int:
    """Handle of a binary of vector code, on the current device.

    Not ``aclrtBinaryLoadFromFile``: that call takes no magic number (CANN, aclrtBinaryLoadOptionType), so it learns
    from a file beside the binary, or not at all, that the code is for vector cores; and the file may have changed since
    its hash was compared. Here the bytes that were checked are the bytes that are loaded.

    Args:
        data: the whole file. Keep it for as long as the binary is in use.

    Raises:
        AclError: CANN refuses it.
    """
    option = _Option(_OPTION_MAGIC, (_ELF_VECTOR_CORE, 0, 0, 0))
    options = _Options(ctypes.pointer(option), 1)
    handle = ctypes.c_void_p()
    code = library().aclrtBinaryLoadFromData(data, len(data), ctypes.byref(options), ctypes.byref(handle))
    if code or not handle.value:
        raise failure("aclrtBinaryLoadFromData", code)
    return handle.value


def function(binary: int, entry: str) -> int:
    """Handle of a kernel function.

    Raises:
        AclError: the binary has no such entry.
    """
    handle = ctypes.c_void_p()
    code = library().aclrtBinaryGetFunction(binary, entry.encode(), ctypes.byref(handle))
    if code or not handle.value:
        raise failure(f"aclrtBinaryGetFunction({entry})", code)
    return handle.value


def unload(binary: int) -> None:
    """Gives a binary back."""
    library().aclrtBinaryUnLoad(binary)


def launch_function() -> Callable[[int, int, int, None, bytes, int, None, int], int]:
    """``aclrtLaunchKernelWithHostArgs(function, blocks, stream, config, arguments, bytes, placeholders, count)``."""
    call = library()[LAUNCH]
    call.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_size_t,
    )
    return call


def failure(call: str, code: int) -> AclError:
    """The error for a return code, with the runtime's own words."""
    text = (library().aclGetRecentErrMsg() or b"").decode(errors="replace").strip()
    return AclError(f"{call} failed with {code}" + (f": {text}" if text else ""))
