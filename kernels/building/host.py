"""Host builds: a kernel's source, unchanged, with our AscendC for the CPU, as a shared object that hostcann runs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ascend_patch.kernels import catalogue
from ascend_patch.kernels.building import files
from ascend_patch.kernels.declaration import ABI, Kernel
from ascend_patch.kernels.loading.index import NAME, Built, Index
from ascend_patch.kernels.loading.targets import host_target
from ascend_patch.toolchain import Toolchain, digest, machine_features

HEADERS = catalogue.FOLDER / "host"
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
    # The device neither contracts products and sums nor traps, and its integers wrap around.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv"),
)
NATIVE = "-march=native"
PARALLEL = 2
"""Compilations at the same time, as for hostcann: CI machines have two cores."""
SIZES = {"ptr": 8, "i32": 4, "u32": 4, "i64": 8, "f32": 4}


def build(kernel: Kernel) -> Path:
    """The cache's folder with the host build of one kernel; built first if its source, headers or compiler are new.

    Raises:
        BuildError: no compiler, the compilation failed, or the cache cannot be written.
    """
    toolchain = files.compiler()
    root = files.cache_folder()
    target = root / f"{kernel.name}-{_key(kernel, toolchain)}"
    if (target / NAME).is_file():
        return target
    with files.locked(root, kernel.name):
        if not (target / NAME).is_file():
            with files.staged(target) as staging:
                _compile([kernel], toolchain, staging, native=True)
    return target


def build_all(kernels: Iterable[Kernel]) -> list[Path]:
    """`build` for several kernels, `PARALLEL` at a time; the folders in order.

    Raises:
        BuildError: of the first kernel that fails.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(build, kernels))


def build_into(kernels: Iterable[Kernel], output: Path) -> Path:
    """Builds into ``output/<target>``, replacing what is there; returns that folder.

    Raises:
        BuildError: as `build`.
    """
    target = output.absolute() / host_target().name
    with files.locked(target.parent, target.name), files.staged(target) as staging:
        _compile(kernels, files.compiler(), staging, native=False)
    return target


def translation_unit(kernel: Kernel) -> str:
    """What is compiled: the source, one host entry per kernel function, and the sizes of their parameters."""
    sizes = ", ".join(str(SIZES[word]) for word in kernel.parameters)
    lines = [f'#include "{catalogue.source(kernel)}"', '#include "entry.h"', "#include <cstdint>"]
    for entry in kernel.entries:
        lines.append(f"ASCENDC_HOST_ENTRY({entry})")
        symbol = f"{entry}__ascendc_host_sizes"
        lines.append(f'extern "C" __attribute__((visibility("default"))) const std::uint8_t {symbol}[];')
        lines.append(f"const std::uint8_t {symbol}[] = {{{sizes}{', ' if sizes else ''}0}};")
    return "\n".join(lines) + "\n"


def _command(toolchain: Toolchain, source: Path, output: Path, native: bool) -> list[str]:
    # Native code is for the cache alone: a folder that someone carries to another CPU must run there.
    flags = [*FLAGS, NATIVE] if native else FLAGS
    return [*toolchain.command, *flags, f"-I{HEADERS}", f"-I{source.parent}", "-x", "c++", "-", "-o", str(output)]


def _key(kernel: Kernel, toolchain: Toolchain) -> str:
    headers = [f"{path.relative_to(HEADERS)}\n{path.read_text()}" for path in sorted(HEADERS.rglob("*.h"))]
    texts = [
        str(ABI),
        translation_unit(kernel),
        catalogue.source_digest(kernel),
        toolchain.identity,
        " ".join((*FLAGS, NATIVE)),
        machine_features(),
        *headers,
    ]
    return digest(text.encode() for text in texts)


def _compile(kernels: Iterable[Kernel], toolchain: Toolchain, folder: Path, native: bool) -> None:
    target = host_target()
    compiler = toolchain.command[0]

    def compile_one(kernel: Kernel) -> Built:
        start = time.monotonic()
        output = folder / f"{kernel.name}{target.suffix}"
        command = _command(toolchain, catalogue.source(kernel), output, native)
        files.run(command, kernel.name, translation_unit(kernel))
        files.announce(f"{kernel.name} for the CPU in {time.monotonic() - start:.1f} s")
        return Built.of(kernel, output, catalogue.source_digest(kernel))

    wanted = list(kernels)
    files.announce(f"compiling {', '.join(kernel.name for kernel in wanted)} with {compiler} (once)")
    with ThreadPoolExecutor(PARALLEL) as pool:
        built = list(pool.map(compile_one, wanted))
    described = {
        "compiler": compiler,
        "version": files.version_line(compiler),
        "commands": [" ".join(_command(toolchain, Path("{source}"), Path("{output}"), native))],
    }
    names = (kernel.name for kernel in wanted)
    Index.of(target, described, dict(zip(names, built, strict=True))).write(folder)
