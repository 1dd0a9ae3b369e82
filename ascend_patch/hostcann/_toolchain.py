"""The system's C++ compiler, the flags, and the keys under which results are cached."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ascend_patch.hostcann._paths import INCLUDE, LIBRARIES, SOURCES, HostCannError, Library, torch_folder

COMMON_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread", "-DNDEBUG", "-Wall", "-Wextra")
TORCH_FLAGS = ("-D_GLIBCXX_USE_CXX11_ABI=1", "-Wno-unused-parameter")
FORMAT = "1"
"""Part of every key: raise it when the layout of the cache changes."""


@dataclass(frozen=True)
class Toolchain:
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
        """`find`, or an error that names the remedy."""
        found = Toolchain.find()
        if found is None:
            chosen = os.environ.get("CXX", "").strip()
            tried = f"CXX={chosen} was not found" if chosen else "none of c++, g++ and clang++ was found"
            raise HostCannError(
                f"hostcann is built once with the system's C++ compiler, but {tried}; "
                "install one (Debian/Ubuntu: apt install g++, Fedora/openEuler: dnf install gcc-c++) or set CXX"
            )
        return found


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()[:16]


def machine_features() -> str:
    """The CPU's instruction set extensions: objects built with -march=native must not travel to another CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.machine()


@dataclass(frozen=True)
class Compilation:
    """One run of the compiler: one translation unit, or several that are included into one."""

    library: Library
    units: tuple[Path, ...]

    @property
    def name(self) -> str:
        first = str(self.units[0].relative_to(SOURCES))
        return first if len(self.units) == 1 else f"{self.library.name}/*.cpp"


class Plan:
    """Everything that decides what a build produces."""

    def __init__(self) -> None:
        self.torch = torch_folder()

    @cached_property
    def headers(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(SOURCES.rglob("*.h"))}

    @cached_property
    def units(self) -> dict[Library, dict[Path, bytes]]:
        return {library: {path: path.read_bytes() for path in library.units()} for library in LIBRARIES}

    @cached_property
    def torch_version(self) -> bytes:
        return (self.torch / "version.py").read_bytes()

    def compile_flags(self, library: Library, unit: Path) -> list[str]:
        flags = [*COMMON_FLAGS, f"-I{INCLUDE}", f"-I{SOURCES}"]
        if library.torch:
            flags += [*TORCH_FLAGS, "-isystem", str(self.torch / "include")]
        if unit.stem.endswith("_native"):
            flags.append("-march=native")
        return flags

    def link_flags(self, library: Library, folder: Path) -> list[str]:
        flags = ["-shared", "-pthread", f"-Wl,-soname,{library.file}", "-Wl,--no-undefined", f"-L{folder}"]
        flags += [f"-l{name}" for name in library.needs]
        if library.needs:
            flags.append("-Wl,-rpath,$ORIGIN")
        if library.torch:
            lib = self.torch / "lib"
            flags += [f"-L{lib}", f"-Wl,-rpath,{lib}", "-Wl,--no-as-needed", "-ltorch_cpu", "-lc10"]
        return flags

    @cached_property
    def source_key(self) -> str:
        """Changes with the sources, the flags, torch and this CPU."""
        parts = [FORMAT.encode(), self.torch_version, str(self.torch).encode(), machine_features().encode()]
        parts += [" ".join((*COMMON_FLAGS, *TORCH_FLAGS)).encode()]
        for path, text in self.headers.items():
            parts += [str(path.relative_to(SOURCES)).encode(), text]
        for library, units in self.units.items():
            parts += [repr(library).encode(), " ".join(self.link_flags(library, Path())).encode()]
            for path, text in units.items():
                parts += [str(path.relative_to(SOURCES)).encode(), text]
        return _digest(parts)

    def build_key(self, toolchain: Toolchain) -> str:
        """The name of the folder with the finished libraries."""
        return f"{self.source_key}-{_digest([toolchain.identity.encode()])[:8]}"

    def compilations(self, library: Library) -> list[Compilation]:
        """What is compiled on its own: every unit, or for a unity library all ordinary units together."""
        units = list(self.units[library])
        if not library.unity:
            return [Compilation(library, (unit,)) for unit in units]
        alone = [unit for unit in units if unit.stem.endswith("_native")]
        together = tuple(unit for unit in units if unit not in alone)
        return [Compilation(library, group) for group in [together, *((unit,) for unit in alone)] if group]

    def object_key(self, toolchain: Toolchain, compilation: Compilation) -> str:
        """The name of a compiled object: objects are shared between builds."""
        library, unit = compilation.library, compilation.units[0]
        parts = [FORMAT.encode(), toolchain.identity.encode()]
        for path in compilation.units:
            parts += [str(path).encode(), self.units[library][path]]
        parts += [flag.encode() for flag in self.compile_flags(library, unit)]
        if library.torch:
            parts.append(self.torch_version)
        if unit.stem.endswith("_native"):
            parts.append(machine_features().encode())
        for path, text in self.headers.items():
            if path.is_relative_to(INCLUDE) or path.is_relative_to(library.folder):
                parts += [str(path.relative_to(SOURCES)).encode(), text]
        return _digest(parts)
