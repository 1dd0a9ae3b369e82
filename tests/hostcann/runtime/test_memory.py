"""Accounting, out of memory, pinned memory, refused frees, virtual memory."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import pytest

MIB = 1 << 20


@pytest.fixture
def acl(torch_on_npu: ModuleType) -> ctypes.CDLL:
    from ascend_patch.hostcann import _loader

    torch_on_npu.empty(1, device="npu")  # a device is set on this thread
    library = _loader.handle("ascendcl")
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    return library


def free_bytes(acl: ctypes.CDLL) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert acl.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value


def allocate(acl: ctypes.CDLL, size: int) -> ctypes.c_void_p:
    pointer = ctypes.c_void_p()
    assert acl.aclrtMalloc(ctypes.byref(pointer), ctypes.c_size_t(size), 0) == 0
    return pointer


def test_memory_info_counts_every_allocation_and_gives_it_back(acl: ctypes.CDLL) -> None:
    before = free_bytes(acl)
    pointer = allocate(acl, 5 * MIB)
    assert 5 * MIB <= before - free_bytes(acl) <= 5 * MIB + 1024
    assert acl.aclrtFree(pointer) == 0
    assert free_bytes(acl) == before


@pytest.mark.parametrize("size", [1, 31, 512, 513, 3 * MIB + 5])
def test_device_memory_is_512_byte_aligned(acl: ctypes.CDLL, size: int) -> None:
    pointer = allocate(acl, size)
    assert pointer.value is not None and pointer.value % 512 == 0
    assert acl.aclrtFree(pointer) == 0


def test_a_second_free_and_a_foreign_pointer_are_refused(acl: ctypes.CDLL) -> None:
    pointer = allocate(acl, 64)
    assert acl.aclrtFree(pointer) == 0
    assert acl.aclrtFree(pointer) == 107000
    assert b"aclrtFree" in acl.aclGetRecentErrMsg()
    foreign = ctypes.create_string_buffer(64)
    assert acl.aclrtFree(foreign) == 107000
    inner = allocate(acl, 1024)
    assert acl.aclrtFree(ctypes.c_void_p(inner.value + 512)) == 107000  # type: ignore[operator]
    assert b"inside" in acl.aclGetRecentErrMsg()
    assert acl.aclrtFreeHost(inner) == 107000
    assert acl.aclrtFree(inner) == 0


def test_the_kind_of_a_copy_must_fit_the_pointers(acl: ctypes.CDLL) -> None:
    pointer = allocate(acl, 64)
    host = ctypes.create_string_buffer(b"x" * 63)
    size = ctypes.c_size_t(64)
    assert acl.aclrtMemcpy(pointer, size, host, size, 1) == 0
    assert acl.aclrtMemcpy(pointer, size, host, size, 2) == 107016
    assert b"device_to_host but the pointers are host_to_device" in acl.aclGetRecentErrMsg()
    assert acl.aclrtMemcpy(pointer, ctypes.c_size_t(32), host, size, 1) == 107000
    beyond = ctypes.c_size_t(1 << 16)
    big = ctypes.create_string_buffer(1 << 16)
    assert acl.aclrtMemcpy(pointer, beyond, big, beyond, 1) == 107000
    assert b"beyond the allocation" in acl.aclGetRecentErrMsg()
    assert acl.aclrtFree(pointer) == 0


def test_out_of_memory_is_torchs_error_and_the_process_goes_on(run: Any) -> None:
    out = run(
        """
        a = torch.empty(40 << 20, dtype=torch.uint8, device="npu")
        free, total = torch.npu.mem_get_info()
        assert total == 64 << 20, total
        assert free <= 24 << 20, free
        try:
            torch.empty(40 << 20, dtype=torch.uint8, device="npu")
        except torch.OutOfMemoryError as error:
            print("refused:", str(error).splitlines()[0])
        try:
            torch.ones(40 << 20, dtype=torch.uint8, device="npu")
        except torch.OutOfMemoryError:
            print("refused in an operator")
        del a
        torch.empty(40 << 20, dtype=torch.uint8, device="npu")
        print("fits again")
        """,
        HOSTCANN_MEMORY="64MiB",
    ).stdout
    assert "refused: NPU out of memory" in out and "refused in an operator" in out and "fits again" in out


def test_results_of_operators_are_counted_as_npu_memory(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    a = torch.ones(1 << 20, device="npu")
    before = torch.npu.memory_allocated()
    b = a + a
    assert torch.npu.memory_allocated() - before == pytest.approx(4 << 20, abs=1024)
    del b
    assert torch.npu.memory_allocated() == before


def test_pinned_memory(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    plain = torch.arange(1000)
    pinned = plain.pin_memory()
    assert pinned.is_pinned() and not plain.is_pinned()
    assert torch.empty(8, pin_memory=True).is_pinned()
    on_npu = pinned.to("npu", non_blocking=True)
    back = torch.empty(1000, dtype=torch.int64, pin_memory=True)
    back.copy_(on_npu, non_blocking=True)
    torch.npu.synchronize()
    assert torch.equal(back, plain)


def test_expandable_segments_grow_and_shrink(run: Any) -> None:
    out = run(
        """
        a = torch.full((8 << 20,), 7, dtype=torch.uint8, device="npu")
        b = torch.full((30 << 20,), 9, dtype=torch.uint8, device="npu")
        assert int(a.cpu().min()) == 7 and int(b.cpu().max()) == 9
        used = torch.npu.mem_get_info()
        del b
        torch.npu.empty_cache()
        assert torch.npu.mem_get_info()[0] - used[0] >= 20 << 20  # the page that `a` does not share
        c = torch.full((30 << 20,), 3, dtype=torch.uint8, device="npu")
        assert int(c.cpu().sum(dtype=torch.int64)) == 3 * (30 << 20) and int(a.cpu().min()) == 7
        print("ok")
        """,
        PYTORCH_NPU_ALLOC_CONF="expandable_segments:True",
        HOSTCANN_MEMORY="128MiB",
    ).stdout
    assert "ok" in out


class Properties(ctypes.Structure):
    """aclrtPhysicalMemProp."""

    _fields_ = [
        ("handle", ctypes.c_int),
        ("allocation", ctypes.c_int),
        ("attribute", ctypes.c_int),
        ("device", ctypes.c_uint32),
        ("location", ctypes.c_int),
        ("reserved", ctypes.c_uint64),
    ]


def test_physical_memory_keeps_its_contents_when_it_is_mapped_elsewhere(acl: ctypes.CDLL) -> None:
    size = ctypes.c_size_t(2 * MIB)
    first, second, handle = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    for address in (first, second):
        assert (
            acl.aclrtReserveMemAddress(ctypes.byref(address), size, ctypes.c_size_t(0), None, ctypes.c_uint64(0)) == 0
        )
    before = free_bytes(acl)
    properties = Properties(0, 0, 4, 0, 1, 0)
    assert acl.aclrtMallocPhysical(ctypes.byref(handle), size, ctypes.byref(properties), ctypes.c_uint64(0)) == 0
    assert before - free_bytes(acl) == 2 * MIB
    zero = ctypes.c_size_t(0)
    assert acl.aclrtMapMem(first, size, zero, handle, ctypes.c_uint64(0)) == 0
    ctypes.memset(first, 0x5A, 2 * MIB)
    assert acl.aclrtReleaseMemAddress(first) == 107000  # still mapped
    assert acl.aclrtUnmapMem(first) == 0
    assert acl.aclrtMapMem(second, size, zero, handle, ctypes.c_uint64(0)) == 0
    assert ctypes.string_at(second, 2 * MIB) == b"\x5a" * (2 * MIB)
    assert acl.aclrtUnmapMem(second) == 0
    assert acl.aclrtFreePhysical(handle) == 0
    assert free_bytes(acl) == before
    for address in (first, second):
        assert acl.aclrtReleaseMemAddress(address) == 0


INVALID = 107000


def test_virtual_memory_refuses_what_is_documented_as_reserved(acl: ctypes.CDLL) -> None:
    """CANN runtime: aclrtReserveMemAddress.md, aclrtMallocPhysical.md, aclrtMapMem.md, aclrtFreePhysical.md."""
    size, zero, no_flags, flags = ctypes.c_size_t(2 * MIB), ctypes.c_size_t(0), ctypes.c_uint64(0), ctypes.c_uint64(1)
    address, handle = ctypes.c_void_p(), ctypes.c_void_p()
    before = free_bytes(acl)

    def allocate(properties: Properties, flags: ctypes.c_uint64 = no_flags) -> int:
        return int(acl.aclrtMallocPhysical(ctypes.byref(handle), size, ctypes.byref(properties), flags))

    assert acl.aclrtReserveMemAddress(ctypes.byref(address), zero, zero, None, no_flags) == INVALID
    assert acl.aclrtReserveMemAddress(ctypes.byref(address), size, ctypes.c_size_t(4096), None, no_flags) == INVALID
    assert allocate(Properties(0, 0, 4, 0, 1, 0), flags) == INVALID
    assert allocate(Properties(1, 0, 4, 0, 1, 0)) == INVALID
    assert allocate(Properties(0, 1, 4, 0, 1, 0)) == INVALID
    assert acl.aclrtReserveMemAddress(ctypes.byref(address), size, zero, None, no_flags) == 0
    assert allocate(Properties(0, 0, 4, 0, 1, 0)) == 0
    assert acl.aclrtMapMem(address, ctypes.c_size_t(MIB), zero, handle, no_flags) == INVALID
    assert acl.aclrtMapMem(address, size, ctypes.c_size_t(MIB), handle, no_flags) == INVALID
    assert acl.aclrtMapMem(address, size, zero, handle, flags) == INVALID
    assert acl.aclrtMapMem(address, size, zero, handle, no_flags) == 0
    assert acl.aclrtFreePhysical(handle) == INVALID, "it is still mapped"
    assert acl.aclrtUnmapMem(address) == 0
    assert acl.aclrtFreePhysical(handle) == 0
    assert acl.aclrtReleaseMemAddress(address) == 0
    assert free_bytes(acl) == before
