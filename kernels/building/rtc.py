"""Just in time for the NPU: CANN's runtime compiler aclrtc, where ``libacl_rtc.so`` is installed.

Written from its documentation (CANN 9.0, Ascend C API, "aclrtc"); no machine of ours has it, so this was never run
against the real library.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ascend_patch import environment
from ascend_patch.kernels import catalogue
from ascend_patch.kernels.building import BuildError, files
from ascend_patch.kernels.declaration import ABI, Kernel
from ascend_patch.kernels.loading.index import NAME, Built, Index
from ascend_patch.kernels.loading.targets import Target
from ascend_patch.toolchain import digest

LIBRARY = "libacl_rtc.so"


def build(kernel: Kernel, target: Target) -> Path:
    """The cache's folder with one kernel compiled for `target`; compiled first if its source or CANN is new.

    Raises:
        BuildError: no runtime compiler, the compilation failed, or the cache cannot be written.
    """
    library = _library()
    cann = environment.find_cann(os.environ)
    version = f"{cann.home} {cann.version}" if cann is not None else "unknown"
    options = [f"--npu-arch={target.architecture}", "-O3"]
    text = self_contained(catalogue.source(kernel))
    root = files.cache_folder()
    key = digest(part.encode() for part in (str(ABI), target.name, text, version, *options))
    folder = root / f"{kernel.name}-{key}"
    if (folder / NAME).is_file():
        return folder
    with files.locked(root, kernel.name):
        if not (folder / NAME).is_file():
            with files.staged(folder) as staging:
                files.announce(f"compiling {kernel.name} for {target.name} with aclrtc")
                output = staging / f"{kernel.name}{target.suffix}"
                output.write_bytes(compile_source(library, text, kernel.name, options))
                built = Built.of(kernel, output, catalogue.source_digest(kernel))
                toolchain = {"compiler": LIBRARY, "version": version, "cann": version, "commands": [" ".join(options)]}
                Index.of(target, toolchain, {kernel.name: built}).write(staging)
    return folder


@cache
def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        raise BuildError(
            f"no {LIBRARY}: install a CANN toolkit with the runtime compiler (9.0 or newer) and source its set_env.sh, "
            "or build once with 'ascend-patch kernels build --npu'"
        ) from None


def self_contained(source: Path) -> str:
    """The source with the headers that lie next to it put in their place: older aclrtc take no headers."""
    seen: set[Path] = set()

    def expand(path: Path) -> str:
        if path in seen:
            return ""
        seen.add(path)

        def replace(match: re.Match[str]) -> str:
            beside = (path.parent / match[1]).resolve()
            return expand(beside) if beside.is_file() else match[0]

        text = path.read_text("utf-8")
        text = re.sub(r"^[ \t]*#[ \t]*pragma[ \t]+once[^\n]*$", "", text, flags=re.MULTILINE)
        return re.sub(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"[^\n]*$', replace, text, flags=re.MULTILINE)

    return expand(source.resolve())


def compile_source(library: ctypes.CDLL, text: str, name: str, options: Sequence[str]) -> bytes:
    """Compiles one program; returns the device ELF file.

    Raises:
        BuildError: with the first error of the compiler's log.
    """
    program = ctypes.c_void_p()
    _call(library, "aclrtcCreateProg", ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    try:
        words = (ctypes.c_char_p * len(options))(*(word.encode() for word in options))
        try:
            _call(library, "aclrtcCompileProg", program, len(options), words)
        except BuildError as error:
            raise BuildError(f"{name}: {error}: {_first_error(library, program)}") from None
        size = ctypes.c_size_t()
        _call(library, "aclrtcGetBinDataSize", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        _call(library, "aclrtcGetBinData", program, data)
        return data.raw
    finally:
        library.aclrtcDestroyProg(ctypes.byref(program))


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    code = getattr(library, name)(*arguments)
    if code:
        raise BuildError(f"{name} failed with {code}")


def _first_error(library: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    _call(library, "aclrtcGetCompileLogSize", program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value + 1)
    _call(library, "aclrtcGetCompileLog", program, log)
    lines = log.value.decode(errors="replace").splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "no log").strip()
