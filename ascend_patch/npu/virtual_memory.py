"""Device memory that keeps its address while what is behind it is given back and fetched again.

torch-npu's pools ask a `SegmentPool` for segments; each is a range of addresses with physical memory mapped into it
(CANN: aclrtReserveMemAddress, aclrtMallocPhysical, aclrtMapMem; Atlas A2, A3 and 950).
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from ascend_patch.npu import _operators as _operators
from ascend_patch.npu.device import soc_family

_logger = logging.getLogger(__name__)

# aclrtMemcpyKind and the values of aclrtPhysicalMemProp.
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_NO_HANDLE_TYPE, _PINNED, _HBM_HUGE_PAGES, _ON_DEVICE = 0, 0, 4, 1
# Segments of huge pages come in multiples of this (CANN, aclrtMemAttr).
GRANULARITY = 2 << 20

_FAMILIES = ("910B", "910_93", "950")


class _Location(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint32), ("type", ctypes.c_int))


class _Properties(ctypes.Structure):
    _fields_ = (
        ("handle_type", ctypes.c_int),
        ("allocation_type", ctypes.c_int),
        ("attribute", ctypes.c_int),
        ("location", _Location),
        ("reserved", ctypes.c_uint64),
    )


@cache
def _acl() -> ctypes.CDLL:
    """The library that torch_npu has loaded already."""
    return ctypes.CDLL("libascendcl.so")


def _call(function: str, *arguments: object, error: type[Exception] = RuntimeError) -> None:
    code = getattr(_acl(), function)(*arguments)
    if code:
        recent = _acl().aclGetRecentErrMsg
        recent.restype = ctypes.c_char_p
        reason = (recent() or b"").decode(errors="replace").strip()
        raise error(f"{function} failed with error {code}{': ' if reason else ''}{reason}")


def virtual_memory_refuses() -> str:
    """Why there is no virtual memory on this device, or ""."""
    if soc_family() in _FAMILIES:
        return ""
    return f"CANN has virtual memory on Atlas A2, A3 and 950, not on {soc_family()}"


class Segment:
    """`size` bytes of addresses on a device, with physical memory behind them from the start.

    Raises:
        MemoryError: the device has too little free memory; nothing is left behind then.
    """

    __slots__ = ("_contents", "_handle", "address", "device", "size", "tag")

    def __init__(self, size: int, device: int, tag: str) -> None:
        self.size = -(-size // GRANULARITY) * GRANULARITY
        self.device = device
        self.tag = tag
        self._handle = ctypes.c_void_p()
        self._contents: torch.Tensor | None = None
        address, bytes_, none = ctypes.c_void_p(), ctypes.c_size_t(self.size), ctypes.c_size_t(0)
        flags = ctypes.c_uint64(0)
        _call("aclrtReserveMemAddress", ctypes.byref(address), bytes_, none, None, flags, error=MemoryError)
        assert address.value is not None
        self.address: int = address.value
        try:
            self.back()
        except MemoryError:
            _call("aclrtReleaseMemAddress", address)
            raise

    @property
    def backed(self) -> bool:
        """Whether there is memory behind the addresses."""
        return self._handle.value is not None

    def back(self) -> None:
        """Put physical memory behind the addresses, with the contents that `drop` kept; otherwise they are undefined.

        Raises:
            MemoryError: the device has too little free memory. What was kept is still there.
        """
        handle, size, flags = ctypes.c_void_p(), ctypes.c_size_t(self.size), ctypes.c_uint64(0)
        wanted = _Properties(_NO_HANDLE_TYPE, _PINNED, _HBM_HUGE_PAGES, _Location(self.device, _ON_DEVICE), 0)
        _call("aclrtMallocPhysical", ctypes.byref(handle), size, ctypes.byref(wanted), flags, error=MemoryError)
        try:
            offset = ctypes.c_size_t(0)
            _call("aclrtMapMem", ctypes.c_void_p(self.address), size, offset, handle, flags, error=MemoryError)
        except MemoryError:
            _call("aclrtFreePhysical", handle)
            raise
        self._handle = handle
        if self._contents is not None:
            self._copy(self.address, self._contents.data_ptr(), _HOST_TO_DEVICE)
            self._contents = None

    def drop(self, keep: bool = False) -> None:
        """Give the physical memory back, its contents in pinned host memory until `back` if they are to be kept.

        No work on the device may use the addresses any more.
        """
        if keep:
            contents = torch.empty(self.size, dtype=torch.uint8, pin_memory=True)
            self._copy(contents.data_ptr(), self.address, _DEVICE_TO_HOST)
            self._contents = contents
        _call("aclrtUnmapMem", ctypes.c_void_p(self.address))
        handle, self._handle = self._handle, ctypes.c_void_p()
        _call("aclrtFreePhysical", handle)

    def release(self) -> None:
        """Give everything back, the addresses as well."""
        if self.backed:
            self.drop()
        _call("aclrtReleaseMemAddress", ctypes.c_void_p(self.address))

    def _copy(self, to: int, source: int, kind: int) -> None:
        size = ctypes.c_size_t(self.size)
        _call("aclrtMemcpy", ctypes.c_void_p(to), size, ctypes.c_void_p(source), size, ctypes.c_int(kind))


_ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)


class SegmentPool:
    """Pools of torch-npu's allocator that take their segments from here.

    Attributes:
        segments: those that exist, by address.
    """

    def __init__(self) -> None:
        import torch_npu

        self.segments: dict[int, Segment] = {}
        self._tag = ""
        # Kept: torch-npu has their addresses only.
        self._callbacks = _ALLOCATE(self._allocate), _FREE(self._free)
        addresses = [ctypes.cast(callback, ctypes.c_void_p).value for callback in self._callbacks]
        self._allocator = torch_npu._C._npu_customAllocator(*addresses)
        self._pools: list[object] = []

    def _allocate(self, size: int, device: int, stream: int | None) -> int:
        """Called by torch-npu's allocator, which takes 0 for out of memory."""
        try:
            segment = Segment(size, device, self._tag)
        except MemoryError as error:
            _logger.warning("%d bytes of device memory cannot be had: %s", size, error)
            return 0
        self.segments[segment.address] = segment
        return segment.address

    def _free(self, address: int, size: int, device: int, stream: int | None) -> None:
        self.segments.pop(address).release()

    @contextmanager
    def active(self, tag: str) -> Iterator[None]:
        """Allocations of this thread come from here, tagged; segments that end up empty give their memory back."""
        from torch_npu.npu import memory

        pool = memory.MemPool(self._allocator)
        self._pools.append(pool)  # its segments live as long as it does
        before, self._tag = self._tag, tag
        try:
            with memory.use_mem_pool(pool):
                yield
        finally:
            self._tag = before
        torch.npu.synchronize()
        for found in memory.memory_snapshot():
            segment = self.segments.get(found["address"])
            if segment is not None and segment.backed and not found["allocated_size"]:
                segment.drop()

    def close(self) -> None:
        """Give up the pools, while torch-npu's allocator and the callbacks still exist."""
        self._pools.clear()
