"""The system's C++ compiler, for what is compiled once on this machine, and the keys under which results are kept."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from ascend_patch.value import Value


class NoCompiler(RuntimeError):
    """There is no C++ compiler; the message says how to get one."""


class Toolchain(Value):
    """A compiler command, and what identifies it."""

    command: tuple[str, ...]
    identity: str

    @staticmethod
    def find() -> Toolchain | None:
        """`$CXX` (it may hold arguments), else the first of c++, g++ and clang++; None if there is none."""
        chosen = os.environ.get("CXX", "").strip()
        for candidate in [chosen] if chosen else ["c++", "g++", "clang++"]:
            words = shlex.split(candidate)
            path = shutil.which(words[0])
            if path is None:
                continue
            # The file's own identity stands for the version: asking the compiler costs a process at every start.
            real = Path(path).resolve()
            status = real.stat()
            identity = f"{real.name} {status.st_size} {status.st_mtime_ns} {' '.join(words[1:])}"
            return Toolchain((path, *words[1:]), identity)
        return None

    @staticmethod
    def require() -> Toolchain:
        """`find`.

        Raises:
            NoCompiler: there is none.
        """
        found = Toolchain.find()
        if found is None:
            chosen = os.environ.get("CXX", "").strip()
            tried = f"CXX={chosen} was not found" if chosen else "none of c++, g++ and clang++ was found"
            remedy = "install one (Debian/Ubuntu: apt install g++, Fedora/openEuler: dnf install gcc-c++) or set CXX"
            raise NoCompiler(f"{tried}; {remedy}")
        return found


def machine_features() -> str:
    """The CPU's instruction set extensions: objects built with -march=native must not travel to another CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.machine()


def digest(parts: Iterable[bytes]) -> str:
    """A key of 16 hexadecimal digits over parts, none of which can run into the next."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()[:16]
