"""Device builds with CANN's compiler: the exact commands per architecture, run where the compiler is.

From CANN's documentation (BiSheng compiler; Ascend C programming guide, "kernel compilation") and from published build
logs; no machine of ours has this compiler, so no command here was ever run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ascend_patch import environment
from ascend_patch.kernels import catalogue
from ascend_patch.kernels.building import BuildError, files
from ascend_patch.kernels.declaration import Kernel
from ascend_patch.kernels.loading import elf
from ascend_patch.kernels.loading.elf import BadBinary
from ascend_patch.kernels.loading.index import Built, Index
from ascend_patch.kernels.loading.targets import DEVICE_TARGETS, Target

COMPILE = (
    "{bisheng} -c -x cce -O3 -std=c++17 --cce-aicore-arch={core} --cce-aicore-only --cce-auto-sync "
    "-mllvm -cce-aicore-stack-size=0x8000 -mllvm -cce-aicore-function-stack-size=0x8000 "
    "-mllvm -cce-aicore-record-overflow=false -mllvm -cce-aicore-addr-transform "
    "{includes} {source} -o {object}"
)
LINK = "{lld} -m aicorelinux -Ttext=0 {object} -static -o {output}"

CORES: Mapping[str, str] = {"dav-2201": "dav-c220-vec", "dav-3510": "dav-c310-vec"}
"""Architecture to the compiler's name of its vector core."""

COMPILERS = ("bin/bisheng", "compiler/ccec_compiler/bin/bisheng", "tools/bisheng_compiler/bin/bisheng")
LINKERS = ("bin/ld.lld", "compiler/ccec_compiler/bin/ld.lld", "tools/bisheng_compiler/bin/ld.lld")
INCLUDES = (
    "include",
    "*-linux/asc/include",
    "*-linux/asc/include/basic_api",
    "*-linux/asc/include/interface",
    "*-linux/tikcpp/tikcfw",
    "*-linux/tikcpp/tikcfw/impl",
    "*-linux/tikcpp/tikcfw/interface",
    "compiler/tikcpp/tikcfw",
    "compiler/tikcpp/tikcfw/impl",
    "compiler/tikcpp/tikcfw/interface",
)
"""Where CANN's AscendC headers are, below its home; releases differ, those that exist are passed."""


@dataclass(frozen=True)
class Toolchain:
    """CANN's compiler and linker."""

    bisheng: Path
    lld: Path
    home: Path
    version: str


def find_toolchain() -> Toolchain:
    """The installed compiler.

    Raises:
        BuildError: no CANN, or one without compiler; with the remedy.
    """
    cann = environment.find_cann(os.environ)
    home = Path(cann.home) if cann is not None else None
    bisheng, lld = _tool("bisheng", home, COMPILERS), _tool("ld.lld", home, LINKERS)
    if bisheng is None or lld is None or home is None:
        raise BuildError(
            "no compiler for the NPU was found (bisheng and ld.lld of a CANN toolkit): run this where CANN 8.5 or "
            "newer is installed, after 'source /usr/local/Ascend/ascend-toolkit/set_env.sh'"
        )
    return Toolchain(bisheng, lld, home, cann.version if cann is not None else "")


def _tool(name: str, home: Path | None, below: Iterable[str]) -> Path | None:
    for folder in below if home is not None else ():
        if home is not None and (home / folder).is_file():
            return home / folder
    found = shutil.which(name)
    # A linker that is not CANN's knows nothing of -m aicorelinux.
    return Path(found) if found and home is not None and Path(found).resolve().is_relative_to(home.resolve()) else None


def targets(architectures: Iterable[str]) -> Iterator[Target]:
    """The targets of these architectures, all of them if none is named.

    Raises:
        BuildError: an unknown one.
    """
    wanted = list(architectures) or [target.architecture for target in DEVICE_TARGETS]
    for name in wanted:
        target = next((target for target in DEVICE_TARGETS if target.architecture == name), None)
        if target is None:
            raise BuildError(f"unknown architecture {name!r}: use {', '.join(CORES)}")
        yield target


def commands(kernel: Kernel, target: Target, output: Path, toolchain: Toolchain | None = None) -> list[list[str]]:
    """The two commands that build one kernel; without a toolchain with CANN's usual places, for showing."""
    shown = "$ASCEND_HOME_PATH"
    source = catalogue.source(kernel)
    if toolchain is None:
        includes = [f"-I{shown}/{pattern.replace('*', '$(uname -m)')}" for pattern in INCLUDES]
    else:
        includes = [f"-I{path}" for pattern in INCLUDES for path in sorted(toolchain.home.glob(pattern))]
    values = {
        "bisheng": str(toolchain.bisheng) if toolchain else f"{shown}/{COMPILERS[0]}",
        "lld": str(toolchain.lld) if toolchain else f"{shown}/{LINKERS[0]}",
        "core": CORES[target.architecture],
        "source": str(source),
        "object": str(output.with_suffix(".obj")),
        "output": str(output),
    }
    folders = [*includes, f"-I{source.parent}"]
    return [_filled(COMPILE, values, folders), _filled(LINK, values, folders)]


def _filled(template: str, values: Mapping[str, str], includes: Iterable[str]) -> list[str]:
    words: list[str] = []
    for word in template.split():
        # Word by word, so that a path may hold spaces.
        words.extend(includes if word == "{includes}" else [word.format(**values)])
    return words


def build_into(kernels: Iterable[Kernel], output: Path, target: Target) -> Path:
    """Builds into ``output/<target>``, replacing what is there; returns that folder.

    What the compiler made is checked like what the loader finds, before an index names it.

    Raises:
        BuildError: no compiler, a failed command, or a result that is not code for `target`.
    """
    toolchain = find_toolchain()
    folder = output.absolute() / target.name
    built = {}
    with files.locked(folder.parent, target.name), files.staged(folder) as staging:
        for kernel in kernels:
            result = staging / f"{kernel.name}{target.suffix}"
            files.announce(f"compiling {kernel.name} for {target.name}")
            for command in commands(kernel, target, result, toolchain):
                files.run(command, kernel.name)
            try:
                elf.check(result.read_bytes(), target)
            except (BadBinary, OSError) as error:
                raise BuildError(f"{kernel.name}: the compiler made no kernel for {target.name}: {error}") from None
            result.with_suffix(".obj").unlink(missing_ok=True)
            built[kernel.name] = Built.of(kernel, result, catalogue.source_digest(kernel))
        described = {
            "compiler": str(toolchain.bisheng),
            "version": files.version_line(str(toolchain.bisheng)),
            "cann": toolchain.version,
            "commands": [COMPILE.replace("{core}", CORES[target.architecture]), LINK],
        }
        Index.of(target, described, built).write(staging)
    return folder
