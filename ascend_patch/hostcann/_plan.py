"""What a build of hostcann compiles, with which flags, and the keys under which results are cached."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from ascend_patch.hostcann._paths import INCLUDE, LIBRARIES, SOURCES, Library, torch_folder
from ascend_patch.toolchain import Toolchain, digest, machine_features
from ascend_patch.value import Value

COMMON_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread", "-DNDEBUG", "-Wall", "-Wextra")
TORCH_FLAGS = ("-D_GLIBCXX_USE_CXX11_ABI=1", "-Wno-unused-parameter")
FORMAT = "1"
"""Part of every key: raise it when the layout of the cache changes."""


class Compilation(Value):
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
        flags = [*COMMON_FLAGS, f"-I{INCLUDE}", f"-I{SOURCES}", f"-ffile-prefix-map={SOURCES}=hostcann"]
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
        return digest(parts)

    def build_key(self, toolchain: Toolchain) -> str:
        """The name of the folder with the finished libraries."""
        return f"{self.source_key}-{digest([toolchain.identity.encode()])[:8]}"

    def compilations(self, library: Library) -> list[Compilation]:
        """What is compiled on its own: every unit, or for a unity library all ordinary units together."""
        units = list(self.units[library])
        if not library.unity:
            return [Compilation(library, (unit,)) for unit in units]
        alone = [unit for unit in units if unit.stem.endswith("_native")]
        together = tuple(unit for unit in units if unit not in alone)
        return [Compilation(library, group) for group in [together, *((unit,) for unit in alone)] if group]

    def object_key(self, toolchain: Toolchain, compilation: Compilation) -> str:
        """The name of a compiled object: objects are shared between builds, of other checkouts and environments too."""
        library, unit = compilation.library, compilation.units[0]
        parts = [FORMAT.encode(), toolchain.identity.encode()]
        for path in compilation.units:
            parts += [str(path.relative_to(SOURCES)).encode(), self.units[library][path]]
        flags = "\n".join(self.compile_flags(library, unit))
        parts.append(flags.replace(str(SOURCES), "SOURCES").replace(str(self.torch), "TORCH").encode())
        if library.torch:
            parts.append(self.torch_version)
        if unit.stem.endswith("_native"):
            parts.append(machine_features().encode())
        for path, text in self.headers.items():
            if path.is_relative_to(INCLUDE) or path.is_relative_to(library.folder):
                parts += [str(path.relative_to(SOURCES)).encode(), text]
        return digest(parts)
