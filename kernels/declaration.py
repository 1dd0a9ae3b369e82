"""A kernel is data: this class, filled in on the first screen of each kernel's package.

Only the standard library is imported, so that the command line can list, check and build kernels without torch.
"""

from __future__ import annotations

from typing import Literal

from ascend_patch.value import Value

ABI = 1
"""Number of the contract between these sources and a binary: entries, parameters and their meaning.

Raise it when a file that was built may no longer be called by this Python; the loader refuses every other number.
"""

Parameter = Literal["ptr", "i32", "u32", "i64", "f32"]

STRUCT_CODES = {"ptr": "Q", "i32": "i", "u32": "I", "i64": "q", "f32": "f"}
"""Parameter type to its code in `struct`: 8, 4, 4, 8 and 4 bytes, each aligned to its size."""


class Kernel(Value):
    """One AscendC source, ``kernels/<name>/<name>.cpp``, and what a caller must know of it.

    In a kernel's package it is written ``KERNEL = Kernel(...)`` with literal values only: the command line reads it
    from the source, because importing the package imports torch.

    Attributes:
        name: name of the folder, of the source's stem and of the built file's stem.
        why: one sentence: what it replaces and what is gained.
        replaces: launches of small PyTorch operators that one launch replaces (counted by hostcann's trace).
        entries: the ``extern "C" __global__ __aicore__`` functions of the source.
        parameters: types of the arguments in order, the same for all entries.
        core: ``aiv``: runs on vector cores only. No kernel here uses the cube.
    """

    name: str
    why: str
    replaces: int
    entries: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    core: Literal["aiv"] = "aiv"

    def __post_init__(self) -> None:
        for word in (self.name, *self.entries):
            # Not by a regular expression: compiling one costs more than all declarations together.
            if not (word.isascii() and word.isidentifier() and word.islower()) or word.startswith("_"):
                raise ValueError(f"kernel {self.name!r}: {word!r} is not a lower-case C identifier")
        if not self.entries or len(set(self.entries)) != len(self.entries):
            raise ValueError(f"kernel {self.name!r} needs entries, each once, not {self.entries!r}")
        unknown = [word for word in self.parameters if word not in STRUCT_CODES]
        if unknown:
            raise ValueError(
                f"kernel {self.name!r}: unknown parameter types {unknown}; known: {', '.join(STRUCT_CODES)}"
            )
        if self.replaces < 1:
            raise ValueError(f"kernel {self.name!r} replaces {self.replaces} launches: then it is not needed")

    @property
    def layout(self) -> str:
        """The flat argument buffer as a `struct` format: native alignment, that is max(alignof, 4) for these types."""
        return "@" + "".join(STRUCT_CODES[word] for word in self.parameters)


class KernelUnavailable(RuntimeError):
    """A kernel cannot be loaded here; the message says why and what to do. The reference takes its place."""


class KernelLaunchError(RuntimeError):
    """The runtime refused a launch, or a kernel faulted. Never answered by a fallback."""
