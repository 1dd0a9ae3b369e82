"""Kernels with one textual edit each, compiled together and launched until a check fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Launch = tuple[Any, ...]
"""Entry, tuple of arguments, blocks, then arrays whose addresses are in those arguments."""


@dataclass(frozen=True)
class Mutation:
    name: str
    before: str
    after: str
    occurrence: int = 0
    missed: str = ""
    """Why the checks cannot find it."""

    def apply(self, source: str) -> str:
        parts = source.split(self.before)
        assert len(parts) > self.occurrence + 1, f"{self.before!r} is no longer in the source"
        head = self.before.join(parts[: self.occurrence + 1])
        return head + self.after + self.before.join(parts[self.occurrence + 1 :])


@dataclass(frozen=True)
class Subject:
    """A kernel, launches that reach every branch of it, and what is broken in it."""

    kernel: str
    entries: tuple[str, ...]
    launches: Callable[[], Iterator[Launch]]
    mutations: tuple[Mutation, ...]


def mutants(subject: Subject, source: str) -> tuple[str, tuple[str, ...]]:
    """All mutants of a kernel as one source, which compiles much faster than one each; and their entries.

    Mutant `len(subject.mutations)` is the kernel as it is.
    """
    includes = "".join(line + "\n" for line in source.splitlines() if line.startswith("#include"))
    text, entries = includes, []
    for number, mutated in enumerate([*(mutation.apply(source) for mutation in subject.mutations), source]):
        mutant = re.sub(r"^#include.*$", "", mutated, flags=re.MULTILINE)
        text += f"namespace mutant_{number} {{\n#line 1\n"
        for entry in subject.entries:
            mutant = re.sub(rf"\b{entry}\b", f"{entry}_{number}", mutant)
            entries.append(f"{entry}_{number}")
        text += mutant + "\n}\n"
        text += "".join(f"using mutant_{number}::{entry}_{number};\n" for entry in subject.entries)
    return text, tuple(entries)


def first_fault(program: Any, subject: Subject, suffix: str = "") -> str:
    """The line of the first launch that fails, or nothing."""
    for entry, arguments, blocks, *memory in subject.launches():
        outcome = program(entry + suffix, *arguments, blocks=blocks, memory=memory)
        if outcome.fault != "SUCCESS":
            return str(outcome.message)
    return ""
