"""What each AscendC kernel computes, moves and issues, counted by its host build, as a table in the README.

    python benchmarks/kernel_table.py [--dry-run]

Every entry of every kernel runs once at a size of a decode step (kernel_cases.py), without hostcann and torch-npu. The
header of the host build counts (kernels/host/environment.h), so counts do not depend on the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

import torch

from ascend_patch.kernels import catalogue, loading
from ascend_patch.kernels.building import host
from ascend_patch.kernels.declaration import Kernel
from ascend_patch.kernels.loading.targets import host_target

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import kernel_cases
import readme


class Counters(ctypes.Structure):
    """`ascendc_host_counters`."""

    _fields_ = (
        ("copied_in", ctypes.c_uint64),
        ("copied_out", ctypes.c_uint64),
        ("scalar", ctypes.c_uint64),
        ("vector_instructions", ctypes.c_uint64),
    )


class Environment(ctypes.Structure):
    """`ascendc_host_environment`; without allocations, so that only each tensor's declared size is checked."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("allocation", ctypes.c_void_p),
        ("checks", ctypes.c_uint32),
        ("counters", ctypes.POINTER(Counters)),
    )


@dataclass(frozen=True)
class Row:
    kernel: Kernel
    entry: str
    case: kernel_cases.Case
    error: str
    moved: int
    instructions: int

    def __str__(self) -> str:
        kind = self.entry.removeprefix(self.kernel.name).strip("_") or "—"
        ratio, each = self.moved / self.case.minimum, self.instructions / self.case.elements
        return (
            f"| {self.kernel.name} | {kind} | {self.case.size} | {self.error} | {self.moved:,} | {ratio:.2f} "
            f"| {each:.3f} | {self.kernel.replaces} |"
        )


def rows() -> Iterator[Row]:
    """One row per kernel entry.

    Raises:
        ValueError: a kernel without a case, a case without a kernel, or a launch that does not use its entry.
    """
    kernels = catalogue.kernels()
    kernel_cases.check(kernels)
    host.build_all(kernels.values())
    for kernel in kernels.values():
        package = importlib.import_module(f"ascend_patch.kernels.{kernel.name}")
        for entry in kernel.entries:
            case, other = kernel_cases.CASES[kernel.name](entry), kernel_cases.CASES[kernel.name](entry)
            counters = Counters()
            with (
                mock.patch.object(loading, "vector_cores", lambda: kernel_cases.CORES),
                mock.patch.object(loading, "launch", partial(_launch, counters, entry)),
            ):
                found = results(case, getattr(package, case.function("launch"))(*case.arguments))
            expected = results(other, getattr(package, case.function("reference"))(*other.arguments))
            if not counters.copied_out:
                raise ValueError(f"the case of {entry} does not launch it")
            moved = counters.copied_in + counters.copied_out + counters.scalar
            yield Row(kernel, entry, case, difference(found, expected), moved, counters.vector_instructions)


def results(case: kernel_cases.Case, returned: Any) -> list[torch.Tensor]:
    """What an operator returned, and the arguments that it wrote to."""
    tensors = [] if returned is None else [returned] if isinstance(returned, torch.Tensor) else list(returned)
    return tensors + list(case.written)


def difference(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> str:
    """Largest absolute error of floating-point results; how many elements of the others differ."""
    largest, differing, floats, others = 0.0, 0, False, False
    for one, two in zip(found, expected, strict=True):
        # Bytes that were copied are not to be looked at as numbers.
        unequal = one != two
        if one.is_floating_point():
            floats = True
            if bool(unequal.any()):
                error = (one[unequal].double() - two[unequal].double()).abs().max().item()
                largest = max(largest, error if error == error else float("inf"))
        else:
            others = True
            differing += int(unequal.sum())
    words = [f"{largest:.1e}" if largest else "0"] if floats else []
    return ", ".join(words + ([f"{differing} differ"] if others else []))


def _launch(counters: Counters, wanted: str, kernel: Kernel, entry: str, blocks: int, *arguments: Any) -> None:
    if entry != wanted:
        raise ValueError(f"the case of {wanted} launches {entry}")
    values = [a.data_ptr() if isinstance(a, torch.Tensor) else 0 if a is None else a for a in arguments]
    packed = struct.pack(kernel.layout, *values)
    library = ctypes.CDLL(str(host.build(kernel) / f"{kernel.name}{host_target().suffix}"))
    environment = Environment(ctypes.sizeof(Environment), None, None, 0, ctypes.pointer(counters))
    message = ctypes.create_string_buffer(512)
    function: Callable[..., int] = getattr(library, f"{entry}__ascendc_host_launch")
    size, capacity = ctypes.c_size_t(len(packed)), ctypes.c_size_t(len(message))
    fault = function(ctypes.c_uint32(blocks), packed, size, ctypes.byref(environment), message, capacity)
    if fault:
        raise RuntimeError(f"{entry}: {message.value.decode()}")


def table() -> str:
    """The Markdown table, with a line about how to read it."""
    head = (
        f"Counted by `python benchmarks/kernel_table.py` on the host build with {kernel_cases.CORES} cores; no NPU "
        "took part. A vector instruction works on 256 bytes, so one pass over float32 is 1/64 = 0.016 per element.\n\n"
        "| kernel | entry | size | error | bytes moved | / minimum | vector instructions per element "
        "| launches replaced |\n|---|---|---|---|--:|--:|--:|--:|"
    )
    return "\n".join([head, *map(str, rows())])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print the table, leave the files alone")
    dry_run: bool = parser.parse_args().dry_run
    readme.publish("kernels", table() + "\n", dry_run=dry_run)


if __name__ == "__main__":
    main()
