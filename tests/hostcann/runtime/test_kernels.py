"""aclrtBinary* and aclrtLaunchKernel* through ctypes, over small shared objects in the place of host builds."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ascend_patch.toolchain import Toolchain

# CANN's documented codes (aclError).
PARAM_INVALID, CONTEXT_NULL, FILE_OPEN, INVALID_HANDLE = 107000, 107002, 107009, 107017
FEATURE_NOT_SUPPORTED, KERNEL_LOOKUP, VECTOR_CORE_EXCEPTION = 207000, 507027, 507035

SOURCE = """
#include <cstddef>
#include <cstdint>
#include <cstdio>
#define EXPORT extern "C" __attribute__((visibility("default")))
struct Arguments { int32_t value; float* target; };
EXPORT int store__ascendc_host_launch(uint32_t blocks, const void* data, size_t size, const void*, char* message,
                                      size_t capacity) {
  auto& a = *static_cast<const Arguments*>(data);
  if (size != sizeof a) return std::snprintf(message, capacity, "%zu bytes of arguments", size), 1;
  *a.target = a.value * 100 + blocks + OFFSET;
  return 0;
}
EXPORT int fail__ascendc_host_launch(uint32_t, const void*, size_t, const void*, char* message, size_t capacity) {
  return std::snprintf(message, capacity, "something at block 2"), 3;
}
EXPORT const uint8_t store__ascendc_host_sizes[] = {4, 8, 0};
EXPORT uint32_t ascendc_host_abi(void) { return ABI; }
"""


def compiled(folder: Path, name: str, *definitions: str) -> Path:
    toolchain = Toolchain.require()
    path = folder / f"{name}.so"
    flags = ["-shared", "-fPIC", "-O1", *(f"-D{word}" for word in definitions), "-x", "c++", "-", "-o", str(path)]
    subprocess.run([*toolchain.command, *flags], input=SOURCE, text=True, check=True, timeout=120)
    return path


@pytest.fixture(scope="module")
def kernel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("kernels"), "store", "OFFSET=0", "ABI=1")


class Acl:
    """The functions under test; each returns its code."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libascendcl.so")
        self.library.aclGetRecentErrMsg.restype = ctypes.c_char_p

    def load(self, path: str | Path) -> tuple[int, ctypes.c_void_p]:
        handle = ctypes.c_void_p()
        return self.library.aclrtBinaryLoadFromFile(str(path).encode(), None, ctypes.byref(handle)), handle

    def load_data(self, data: bytes) -> tuple[int, ctypes.c_void_p]:
        handle = ctypes.c_void_p()
        size = ctypes.c_size_t(len(data))
        return self.library.aclrtBinaryLoadFromData(data, size, None, ctypes.byref(handle)), handle

    def function(self, binary: ctypes.c_void_p, name: str) -> tuple[int, ctypes.c_void_p]:
        handle = ctypes.c_void_p()
        return self.library.aclrtBinaryGetFunction(binary, name.encode(), ctypes.byref(handle)), handle

    def unload(self, binary: ctypes.c_void_p) -> int:
        return int(self.library.aclrtBinaryUnLoad(binary))

    def launch(self, function: ctypes.c_void_p, arguments: ctypes.Structure, blocks: int = 1) -> int:
        size = ctypes.c_size_t(ctypes.sizeof(arguments))
        return int(
            self.library.aclrtLaunchKernelWithHostArgs(
                function, blocks, None, None, ctypes.byref(arguments), size, None, ctypes.c_size_t(0)
            )
        )

    def message(self) -> str:
        return (self.library.aclGetRecentErrMsg() or b"").decode()


class Arguments(ctypes.Structure):
    _fields_ = (("value", ctypes.c_int32), ("target", ctypes.c_void_p))


@pytest.fixture
def acl(torch_on_npu: ModuleType) -> Iterator[Acl]:
    torch_on_npu.npu.set_device(0)
    found = Acl()
    found.message()
    yield found
    found.message()


def test_a_loaded_kernel_runs_with_its_arguments_and_blocks(
    acl: Acl, torch_on_npu: ModuleType, kernel_file: Path
) -> None:
    target = torch_on_npu.zeros(1, device="npu")
    code, binary = acl.load(kernel_file)
    assert code == 0, acl.message()
    code, function = acl.function(binary, "store")
    assert code == 0 and acl.function(binary, "store")[1].value == function.value
    assert acl.launch(function, Arguments(7, target.data_ptr()), 3) == 0
    assert target.cpu().item() == 703
    assert acl.unload(binary) == 0


def test_the_argument_array_is_packed_by_the_sizes_in_the_build(
    acl: Acl, torch_on_npu: ModuleType, kernel_file: Path
) -> None:
    target = torch_on_npu.zeros(1, device="npu")
    binary = acl.load(kernel_file)[1]
    function = acl.function(binary, "store")[1]
    values = (ctypes.c_int32(5), ctypes.c_void_p(target.data_ptr()))
    array = (ctypes.c_void_p * 2)(*(ctypes.addressof(value) for value in values))
    assert acl.library.aclrtLaunchKernelWithArgsArray(function, 2, None, None, array) == 0
    assert target.cpu().item() == 502
    broken = (ctypes.c_void_p * 2)(array[0], None)
    assert acl.library.aclrtLaunchKernelWithArgsArray(function, 2, None, None, broken) == PARAM_INVALID
    without = acl.function(binary, "fail")[1]
    assert acl.library.aclrtLaunchKernelWithArgsArray(without, 2, None, None, array) == FEATURE_NOT_SUPPORTED
    acl.unload(binary)


def test_arguments_in_device_memory_are_read_when_the_stream_gets_there(
    acl: Acl, torch_on_npu: ModuleType, kernel_file: Path
) -> None:
    target = torch_on_npu.zeros(1, device="npu")
    buffer = torch_on_npu.tensor([9, target.data_ptr()], dtype=torch_on_npu.int64).npu()
    binary = acl.load(kernel_file)[1]
    function = acl.function(binary, "store")[1]
    launch = acl.library.aclrtLaunchKernel
    assert launch(function, 1, ctypes.c_void_p(buffer.data_ptr()), ctypes.c_size_t(16), None) == 0
    assert target.cpu().item() == 901
    host = (ctypes.c_int64 * 2)(9, target.data_ptr())
    assert launch(function, 1, host, ctypes.c_size_t(16), None) == PARAM_INVALID
    assert "not in device memory" in acl.message()
    acl.unload(binary)


def test_another_file_is_another_binary_even_when_numbers_are_used_again(
    acl: Acl, torch_on_npu: ModuleType, kernel_file: Path, tmp_path: Path
) -> None:
    target = torch_on_npu.zeros(1, device="npu")
    other = compiled(tmp_path, "other", "OFFSET=50", "ABI=1")
    seen = []
    binaries = []
    for data in (kernel_file.read_bytes(), other.read_bytes(), kernel_file.read_bytes()):
        code, binary = acl.load_data(data)
        assert code == 0, acl.message()
        binaries.append(binary)
        assert acl.launch(acl.function(binary, "store")[1], Arguments(1, target.data_ptr())) == 0
        seen.append(target.cpu().item())
    assert seen == [101, 151, 101]
    assert [acl.unload(binary) for binary in binaries] == [0, 0, 0]


def test_a_fault_is_a_vector_core_exception_with_the_line_of_the_kernel(acl: Acl, kernel_file: Path) -> None:
    binary = acl.load(kernel_file)[1]
    assert acl.launch(acl.function(binary, "fail")[1], Arguments()) == VECTOR_CORE_EXCEPTION
    assert "fail: vector core exception: something at block 2" in acl.message()
    acl.unload(binary)


def test_what_is_no_host_build_of_a_kernel_is_refused(acl: Acl, kernel_file: Path, tmp_path: Path) -> None:
    data = kernel_file.read_bytes()
    device = data[:18] + (0x1029).to_bytes(2, "little") + data[20:]
    for content, words in (
        (b"text", "4 bytes that are no ELF file"),
        (device, "device code (ELF machine 0x1029)"),
        (data[:18] + b"\xf3\x00" + data[20:], "ELF machine 243"),
        (data[: len(data) // 2], "truncated"),
        (compiled(tmp_path, "future", "OFFSET=0", "ABI=9").read_bytes(), "ABI 9, hostcann has 1"),
    ):
        assert acl.load_data(content)[0] == PARAM_INVALID
        assert words in acl.message()


def test_missing_files_and_relative_paths_are_refused(acl: Acl, tmp_path: Path) -> None:
    assert acl.load(tmp_path / "none.o")[0] == FILE_OPEN
    assert "none.o cannot be opened: No such file or directory" in acl.message()
    assert acl.load("kernel.o")[0] == PARAM_INVALID
    assert "not an absolute path" in acl.message()


class Option(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("value", ctypes.c_uint32 * 4))


class Options(ctypes.Structure):
    _fields_ = (("options", ctypes.POINTER(Option)), ("count", ctypes.c_size_t))


@pytest.mark.parametrize(
    ("kind", "value", "from_data", "from_file"),
    [
        (1, 1, 0, 0),  # load at once
        (1, 2, PARAM_INVALID, PARAM_INVALID),
        (2, 0x41415246, 0, PARAM_INVALID),  # the magic number of vector code: CANN takes it with data only
        (2, 0x12345678, PARAM_INVALID, PARAM_INVALID),
        (9, 0, PARAM_INVALID, PARAM_INVALID),
    ],
)
def test_options_are_accepted_and_refused_as_by_cann(
    acl: Acl, kernel_file: Path, kind: int, value: int, from_data: int, from_file: int
) -> None:
    option = Option(kind, (value, 0, 0, 0))
    options = ctypes.byref(Options(ctypes.pointer(option), 1))
    data, handle = kernel_file.read_bytes(), ctypes.c_void_p()
    load = acl.library.aclrtBinaryLoadFromData
    assert load(data, ctypes.c_size_t(len(data)), options, ctypes.byref(handle)) == from_data
    load = acl.library.aclrtBinaryLoadFromFile
    assert load(str(kernel_file).encode(), options, ctypes.byref(handle)) == from_file


def test_wrong_handles_and_names_are_refused(acl: Acl, torch_on_npu: ModuleType, kernel_file: Path) -> None:
    binary = acl.load(kernel_file)[1]
    function = acl.function(binary, "store")[1]
    assert acl.function(binary, "sum")[0] == KERNEL_LOOKUP
    assert acl.function(ctypes.c_void_p(64), "store")[0] == INVALID_HANDLE
    assert acl.launch(ctypes.c_void_p(64), Arguments()) == INVALID_HANDLE
    assert acl.unload(binary) == 0
    assert acl.unload(binary) == INVALID_HANDLE
    acl.message()
    target = torch_on_npu.zeros(1, device="npu")
    assert acl.launch(function, Arguments(1, target.data_ptr())) == INVALID_HANDLE
    assert "the binary of store is unloaded" in acl.message()


def test_a_thread_without_a_device_cannot_load(acl: Acl, kernel_file: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(acl.load, kernel_file).result()[0] == CONTEXT_NULL
