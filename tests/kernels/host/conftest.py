"""Kernels built and launched without hostcann: the header alone, as a C++ compiler and a bare launcher see it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

ROOT = Path(__file__).parents[3]
HEADERS = ROOT / "kernels" / "host"
FLAGS = (
    *("-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv"),
)
# Of these, each one that is installed builds the tests. Older clang has no _Float16 on x86-64.
COMPILERS = ("g++", "clang++", *(f"clang++-{version}" for version in range(21, 14, -1)))

FAULTS = (
    *("SUCCESS", "ARGUMENTS", "UB_BOUNDS", "GM_BOUNDS", "ALIGNMENT", "LENGTH", "UNALLOCATED", "QUEUE", "FLAG", "RACE"),
    *("UNINITIALISED", "CAPACITY", "OVERLAP", "VALUE", "BLOCKS"),
)
"""`enum ascendc_host_fault` of kernels/host/environment.h, in order."""

ALLOCATION = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_size_t),
)


class Environment(ctypes.Structure):
    """`ascendc_host_environment`."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("allocation", ALLOCATION),
        ("checks", ctypes.c_uint32),
        ("counters", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Outcome:
    """What a launch returned: a fault of `FAULTS`, and its one line."""

    fault: str
    message: str


@dataclass(frozen=True)
class Program:
    """A host build. Arrays among the arguments are device memory; each is an allocation of exactly its size."""

    library: ctypes.CDLL

    def __call__(
        self,
        entry: str,
        *arguments: np.ndarray | np.int64 | int | float | None,
        blocks: int = 1,
        checks: int = 1,
        memory: Sequence[np.ndarray] = (),
        counters: ctypes.Structure | None = None,
        size: int = ctypes.sizeof(Environment),
    ) -> Outcome:
        """Launches; `None` is a null pointer, `int` an i32, `np.int64` an i64, `float` an f32.

        `memory` is device memory besides the arguments, whose addresses are in them.
        `size` is what the environment says of its own size: a launcher of before has a smaller one.
        """
        allocations = [(array.ctypes.data, array.nbytes) for array in memory]
        layout, values = "@", []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                allocations.append((argument.ctypes.data, argument.nbytes))
                layout += "P"
                values.append(argument.ctypes.data)
            else:
                codes = {type(None): "P", np.int64: "q", int: "i", float: "f"}
                layout += codes[type(argument)]
                values.append(argument or 0)

        def allocation(_context: object, address: int, begin: object, size: object) -> int:
            for start, length in allocations:
                # One past the end counts: an access there is out of bounds, not nowhere.
                if start <= address <= start + length:
                    begin[0] = start  # type: ignore[index]
                    size[0] = length  # type: ignore[index]
                    return 1
            return 0

        counted = None if counters is None else ctypes.addressof(counters)
        environment = Environment(size, None, ALLOCATION(allocation), checks, counted)
        buffer = struct.pack(layout, *values)
        message = ctypes.create_string_buffer(512)
        function = getattr(self.library, f"{entry}__ascendc_host_launch")
        kind = function(
            ctypes.c_uint32(blocks),
            buffer,
            ctypes.c_size_t(len(buffer)),
            ctypes.byref(environment),
            message,
            ctypes.c_size_t(len(message)),
        )
        return Outcome(FAULTS[kind], message.value.decode())


class Builder:
    """Compiles kernels with one compiler, each source once per session."""

    def __init__(self, compiler: str, folder: Path, *flags: str) -> None:
        self.compiler = compiler
        self.folder = folder
        self.flags = flags
        self._built: dict[str, Program] = {}

    def command(self, source: Path, output: Path) -> list[str]:
        # clang stops after twenty errors, and a test wants to see more.
        every = ["-ferror-limit=0"] if "clang" in self.compiler else []
        return [
            self.compiler,
            *FLAGS,
            *every,
            *self.flags,
            f"-I{HEADERS}",
            f"-I{source.parent}",
            "-o",
            str(output),
            str(source),
        ]

    def compile(self, text: str, entries: Sequence[str]) -> subprocess.CompletedProcess[str]:
        lines = [text, '#include "entry.h"', *(f"ASCENDC_HOST_ENTRY({entry})" for entry in entries)]
        unit = "\n".join(lines) + "\n"
        stem = hashlib.sha256(unit.encode()).hexdigest()[:16]
        source = self.folder / f"{stem}.cpp"
        source.write_text(unit)
        self.output = self.folder / f"{stem}.so"
        return subprocess.run(
            self.command(source, self.output), capture_output=True, text=True, timeout=240, check=False
        )

    def __call__(self, text: str, entries: Sequence[str]) -> Program:
        if text not in self._built:
            done = self.compile(text, entries)
            assert done.returncode == 0, done.stderr[:4000]
            self._built[text] = Program(ctypes.CDLL(str(self.output)))
        return self._built[text]


def installed() -> list[str]:
    found = [name for name in COMPILERS if shutil.which(name)]
    if "clang++" in found:
        version = subprocess.run(["clang++", "-dumpversion"], capture_output=True, text=True, check=True).stdout
        if int(version.split(".")[0]) < 15:
            found.remove("clang++")
    # One clang is enough.
    return found[:2]


@pytest.fixture(scope="session", params=installed())
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Builds with each installed compiler in turn."""
    return Builder(request.param, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Builds with the first installed compiler, where the compiler does not matter."""
    return Builder(installed()[0], tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def build_mutants(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Builds quickly: many sources, small inputs; a mutation may well leave a variable unused."""
    return Builder(installed()[-1], tmp_path_factory.mktemp("mutants"), "-O0", "-w")


@pytest.fixture(scope="session")
def kernel_source() -> Callable[[str], str]:
    """The source of one of our kernels."""
    return lambda name: (ROOT / "kernels" / name / f"{name}.cpp").read_text()
