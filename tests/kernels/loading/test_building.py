"""Device builds with stand-ins for CANN's compilers: the commands, the checks on what they make, the index."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest

from ascend_patch.kernels import catalogue
from ascend_patch.kernels.building import BuildError, files, npu, rtc
from ascend_patch.kernels.loading.elf import BadBinary
from ascend_patch.kernels.loading.index import NAME, Index
from ascend_patch.kernels.loading.targets import DEVICE_TARGETS
from ascend_patch.toolchain import Toolchain

from .toy import KERNEL

A2 = DEVICE_TARGETS[0]


def device_elf(flags: int) -> bytes:
    return struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 0x1029, 1, 0, 0, 0, flags, 64, 0, 0, 0, 0, 0)


@pytest.fixture
def cann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CANN whose linker copies a ready file and whose tools write down how they were called."""
    home = tmp_path / "cann with a space"
    (home / "bin").mkdir(parents=True)
    (home / "include").mkdir()
    (home / "x86_64-linux" / "asc" / "include").mkdir(parents=True)
    (home / "ready.o").write_bytes(device_elf(0x930000))
    script = """#!/bin/sh
[ "$1" = --version ] && { echo "bisheng 1.2.3"; exit 0; }
here="$(dirname "$0")"
for word in "$@"; do printf '%s\\n' "$word" >> "$here/../calls"; done
while [ $# -gt 0 ]; do [ "$1" = -o ] && cp "$here/../ready.o" "$2"; shift; done
"""
    for name in ("bisheng", "ld.lld"):
        path = home / "bin" / name
        path.write_text(script)
        path.chmod(0o755)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(home))
    return home


def test_a_device_build_runs_compiler_and_linker_and_writes_what_it_made(
    kernels: Path, cann: Path, tmp_path: Path
) -> None:
    folder = npu.build_into([KERNEL], tmp_path / "out", A2)
    assert sorted(path.name for path in folder.iterdir()) == [NAME, "toy.o"]
    calls = (cann / "calls").read_text().splitlines()
    for word in (
        "--cce-aicore-arch=dav-c220-vec", "--cce-aicore-only", "-std=c++17", str(kernels / "toy" / "toy.cpp"),
        f"-I{cann}/include", f"-I{cann}/x86_64-linux/asc/include", "aicorelinux", "-Ttext=0", "-static",
    ):  # fmt: skip
        assert word in calls, word
    assert not any("kernels/host" in word for word in calls), "our header must not hide CANN's"
    index = json.loads((folder / NAME).read_text())
    assert index["target"] == index["architecture"] == "dav-2201" and index["abi"] == 1
    assert index["toolchain"]["version"] == "bisheng 1.2.3"
    digest = subprocess.run(["sha256sum", folder / "toy.o"], capture_output=True, text=True, check=True)
    assert index["kernels"]["toy"]["sha256"] == digest.stdout.split()[0]
    assert Index.read(folder).verified(folder, KERNEL, A2, catalogue.source_digest(KERNEL)).path == folder / "toy.o"
    with pytest.raises(BadBinary, match="built for dav-2201, needed is dav-3510"):
        Index.read(folder).verified(folder, KERNEL, DEVICE_TARGETS[1], catalogue.source_digest(KERNEL))


@pytest.mark.parametrize(
    ("made", "words"),
    [(device_elf(0x990000), "e_flags 0x990000"), (b"", "no ELF"), (device_elf(0x930000)[:40], "no ELF")],
)
def test_a_compiler_that_makes_something_else_leaves_no_index(
    kernels: Path, cann: Path, tmp_path: Path, made: bytes, words: str
) -> None:
    (cann / "ready.o").write_bytes(made)
    with pytest.raises(BuildError, match=f"made no kernel for dav-2201: .*{words}"):
        npu.build_into([KERNEL], tmp_path / "out", A2)
    assert not (tmp_path / "out" / "dav-2201").exists()


def test_a_failing_build_keeps_what_was_there(kernels: Path, cann: Path, tmp_path: Path) -> None:
    folder = npu.build_into([KERNEL], tmp_path / "out", A2)
    before = (folder / NAME).read_bytes()
    (cann / "bin" / "bisheng").write_text("#!/bin/sh\necho 'toy.cpp:3: error: no such call' >&2\nexit 1\n")
    with pytest.raises(BuildError, match=r"failed on toy: toy\.cpp:3: error: no such call"):
        npu.build_into([KERNEL], tmp_path / "out", A2)
    assert (folder / NAME).read_bytes() == before and not list((tmp_path / "out").glob("staging-*"))


def test_without_a_compiler_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no compiler for the NPU .*set_env\.sh"):
        npu.find_toolchain()


def test_a_linker_that_is_not_canns_is_not_taken(cann: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (cann / "bin" / "ld.lld").rename(tmp_path / "ld.lld")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(BuildError):
        npu.find_toolchain()


RTC = """
#include <cstring>
#include <cstdlib>
#include <cstdio>
#include <cstddef>
struct Program { const char* source; };
static Program program;
extern "C" {
int aclrtcCreateProg(void** out, const char* source, const char*, int headers, const char** h, const char** n) {
  if (headers != 0 || h || n || std::strstr(source, "#include \\"part.h\\"")) return 176001;
  program.source = strdup(source);
  *out = &program;
  return 0;
}
int aclrtcCompileProg(void*, int count, const char** options) {
  if (count < 1 || std::strcmp(options[0], "--npu-arch=dav-2201")) return 176002;
  return std::strstr(program.source, "broken") ? 176003 : 0;
}
int aclrtcGetBinDataSize(void*, size_t* size) { *size = 64; return 0; }
int aclrtcGetBinData(void*, char* data) {
  static const unsigned char ident[] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
  std::memset(data, 0, 64);
  std::memcpy(data, ident, sizeof ident);
  data[16] = 2, data[18] = 0x29, data[19] = 0x10, data[20] = 1, data[50] = (char)0x93, data[52] = 64;
  return 0;
}
int aclrtcGetCompileLogSize(void*, size_t* size) { *size = 29; return 0; }
int aclrtcGetCompileLog(void*, char* log) { std::memcpy(log, "note\\ntoy:1: error: is broken", 29); return 0; }
int aclrtcDestroyProg(void**) { std::free((void*)program.source); return 0; }
}
"""


@pytest.fixture(scope="session")
def rtc_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rtc") / "libacl_rtc.so"
    command = [*Toolchain.require().command, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path)]
    subprocess.run(command, input=RTC, text=True, check=True, timeout=120)
    return path


@pytest.fixture
def runtime_compiler(rtc_file: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    library = ctypes.CDLL(str(rtc_file))
    monkeypatch.setattr(rtc, "_library", lambda: library)
    return library


def test_the_runtime_compiler_fills_the_cache_with_what_the_loader_accepts(
    kernels: Path, runtime_compiler: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rtc.build(KERNEL, A2)
    index = Index.read(folder)
    assert index.verified(folder, KERNEL, A2, catalogue.source_digest(KERNEL)).data == device_elf(0x930000)
    monkeypatch.setattr(rtc, "compile_source", lambda *_: pytest.fail("compiled twice"))
    assert rtc.build(KERNEL, A2) == folder


def test_headers_beside_the_source_are_put_in_their_place_once(kernels: Path, runtime_compiler: ctypes.CDLL) -> None:
    (kernels / "toy" / "part.h").write_text("#pragma once\nint part;\n")
    source = kernels / "toy" / "toy.cpp"
    source.write_text('#include "kernel_operator.h"\n#include "part.h"\n#include "part.h"\nint rest;\n')
    text = rtc.self_contained(source)
    assert text.count("int part;") == 1 and "part.h" not in text
    assert '#include "kernel_operator.h"' in text and text.index("int part;") < text.index("int rest;")
    assert rtc.build(KERNEL, A2).is_dir()


def test_a_source_the_runtime_compiler_refuses_is_an_error_with_its_log(
    kernels: Path, runtime_compiler: ctypes.CDLL
) -> None:
    (kernels / "toy" / "toy.cpp").write_text("broken\n")
    with pytest.raises(BuildError, match="toy: aclrtcCompileProg failed with 176003: toy:1: error: is broken"):
        rtc.build(KERNEL, A2)
    assert not [path for path in files.cache_folder().iterdir() if path.is_dir()]


def test_without_a_runtime_compiler_the_remedy_is_named() -> None:
    with pytest.raises(BuildError, match=r"no libacl_rtc\.so: install .*kernels build --npu"):
        rtc._library()
