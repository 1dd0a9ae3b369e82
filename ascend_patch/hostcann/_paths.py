"""Where things are: sources, libraries in the order in which they are loaded, torch, the build cache."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from ascend_patch import cache
from ascend_patch.value import Value

SOURCES = Path(__file__).resolve().parent / "src"
INCLUDE = SOURCES / "include"


class Library(Value):
    """One shared library: `src/<name>/*.cpp` becomes `lib<name>.so`."""

    name: str
    needs: tuple[str, ...] = ()
    """Libraries of ours that it links."""
    torch: bool = False
    """Links libtorch_cpu and libc10."""
    unity: bool = False
    """Its units are compiled as one (except *_native.cpp): most of the time goes into torch's headers."""

    @property
    def file(self) -> str:
        return f"lib{self.name}.so"

    @property
    def folder(self) -> Path:
        return SOURCES / self.name

    def units(self) -> list[Path]:
        """The translation units, in a stable order."""
        return sorted(self.folder.rglob("*.cpp"))


_ALL = (
    Library("ascendcl"),
    Library("acl_tdt_channel", needs=("ascendcl",)),
    Library("graph"),
    Library("ge_runner"),
    Library("acl_op_compiler", needs=("ascendcl",)),
    Library("hccl", needs=("ascendcl",)),
    Library("opapi", needs=("ascendcl", "hccl"), torch=True),
    Library("aten", needs=("ascendcl", "opapi"), torch=True, unity=True),
)
LIBRARIES = tuple(library for library in _ALL if library.name not in os.environ.get("HOSTCANN_WITHOUT", "").split(","))
"""In load order: a library comes after those it needs. All but `aten` are CANN's own library names.

`HOSTCANN_WITHOUT=aten` leaves a library out, for work on the others while its sources do not compile.
"""


class HostCannError(RuntimeError):
    """hostcann cannot be built or loaded; the message says why and what to do."""


def torch_folder() -> Path:
    """The installed torch package, found without importing it."""
    module = sys.modules.get("torch")
    found = getattr(module, "__file__", None)
    if found:
        return Path(found).resolve().parent
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise HostCannError("hostcann needs torch: install the CPU build of the version that torch-npu names")
    return Path(spec.origin).resolve().parent


def cache_root() -> Path:
    """`HOSTCANN_CACHE`, else `$XDG_CACHE_HOME/ascend_patch/hostcann`, else the same below `~/.cache`."""
    chosen = os.environ.get("HOSTCANN_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return cache.root() / "hostcann"
