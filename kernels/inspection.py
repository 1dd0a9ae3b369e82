"""What `ascend-patch kernels` reports, found without torch and without loading anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ascend_patch.kernels import catalogue
from ascend_patch.kernels.declaration import Kernel
from ascend_patch.kernels.loading import search
from ascend_patch.kernels.loading.elf import BadBinary
from ascend_patch.kernels.loading.index import NAME, Index
from ascend_patch.kernels.loading.targets import DEVICE_TARGETS, Target, host_target


class Verdict(NamedTuple):
    """One kernel in one folder: its file, or what is wrong with it."""

    place: str
    folder: Path
    target: str
    kernel: str
    problem: str
    """"" if the loader would accept it."""


def targets() -> list[Target]:
    """Everything a binary may be built for on or from this machine."""
    try:
        return [*DEVICE_TARGETS, host_target()]
    except ValueError:
        return list(DEVICE_TARGETS)


def folders() -> list[tuple[str, Path]]:
    """The folders with an index that the loader would search, the just-in-time cache aside."""
    found = []
    explicit = os.environ.get(search.PATH)
    if explicit:
        found.append((search.PATH, Path(explicit).expanduser().absolute()))
    found.append(("package", search.PREBUILT))
    return found


def check(place: str, root: Path) -> Iterator[Verdict]:
    """Every kernel in every index at or below a folder, as the loader would judge it."""
    kernels = catalogue.kernels()
    known = {target.name: target for target in targets()}
    for path in sorted([*root.glob(NAME), *root.glob(f"*/{NAME}")]):
        folder = path.parent
        try:
            index = Index.read(folder)
        except BadBinary as error:
            yield Verdict(place, folder, "", "", str(error))
            continue
        target = known.get(index.target)
        if target is None:
            yield Verdict(place, folder, index.target, "", f"unknown target {index.target!r}: {', '.join(known)}")
            continue
        for name in sorted({*index.kernels, *kernels}):
            yield Verdict(place, folder, index.target, name, _problem(index, folder, kernels.get(name), name, target))


def _problem(index: Index, folder: Path, kernel: Kernel | None, name: str, target: Target) -> str:
    if kernel is None:
        return f"no kernel {name} is declared here"
    try:
        index.verified(folder, kernel, target, catalogue.source_digest(kernel))
    except BadBinary as error:
        return str(error)
    return ""
