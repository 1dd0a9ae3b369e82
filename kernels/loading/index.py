"""``index.json``: what a folder of built kernels holds, for what, by which compiler, with which hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ascend_patch.kernels.declaration import ABI, Kernel
from ascend_patch.kernels.loading import elf
from ascend_patch.kernels.loading.elf import BadBinary
from ascend_patch.kernels.loading.targets import Target

NAME = "index.json"


class File(NamedTuple):
    """A built kernel and its contents."""

    path: Path
    data: bytes


@dataclass(frozen=True)
class Built:
    """One built kernel in an index."""

    file: str
    sha256: str
    source_sha256: str
    core: str
    entries: tuple[str, ...]
    parameters: tuple[str, ...]

    @staticmethod
    def of(kernel: Kernel, file: Path, source_digest: str) -> Built:
        """The record of a file that was just built."""
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return Built(file.name, digest, source_digest, kernel.core, kernel.entries, kernel.parameters)


@dataclass(frozen=True)
class Index:
    """The contents of ``index.json``.

    Attributes:
        toolchain: ``compiler`` (path), ``version`` (first line of its own answer), ``commands``, for device builds
            ``cann``.
    """

    abi: int
    target: str
    architecture: str
    toolchain: Mapping[str, Any]
    kernels: Mapping[str, Built] = field(default_factory=dict)

    @staticmethod
    def of(target: Target, toolchain: Mapping[str, Any], kernels: Mapping[str, Built]) -> Index:
        """An index of the present ABI."""
        return Index(ABI, target.name, target.architecture, toolchain, kernels)

    @staticmethod
    def read(folder: Path) -> Index:
        """The index of a folder.

        Raises:
            BadBinary: unreadable or not an index.
        """
        path = folder / NAME
        try:
            values = json.loads(path.read_text("utf-8"))
            kernels = {
                name: Built(**{**built, "entries": tuple(built["entries"]), "parameters": tuple(built["parameters"])})
                for name, built in values.pop("kernels").items()
            }
            return Index(**values, kernels=kernels)
        except OSError as error:
            raise BadBinary(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadBinary(f"{path} is no index of kernels ({type(error).__name__}: {error})") from None

    def write(self, folder: Path) -> None:
        """Writes ``index.json`` in one step."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        handle, draft = tempfile.mkstemp(dir=folder, prefix=".index-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(draft).chmod(0o644)
            Path(draft).replace(folder / NAME)
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(draft).unlink()

    def verified(self, folder: Path, kernel: Kernel, target: Target, source_digest: str) -> File:
        """The file of `kernel`, after every check that needs no runtime. What is loaded must be these bytes.

        Args:
            source_digest: what the source must have been, from `catalogue.source_digest`.

        Raises:
            BadBinary: another ABI number or target; an unknown kernel; other entries or parameters; a file outside the
                folder, missing, with another hash, truncated or for another machine.
        """
        if self.abi != ABI:
            raise BadBinary(f"ABI {self.abi}, this ascend_patch has {ABI}")
        if (self.target, self.architecture) != (target.name, target.architecture):
            raise BadBinary(f"built for {self.target}, needed is {target.name}")
        built = self.kernels.get(kernel.name)
        if built is None:
            raise BadBinary(f"no kernel {kernel.name}")
        for what, found, wanted in (
            ("entries", built.entries, kernel.entries),
            ("parameters", built.parameters, kernel.parameters),
            ("core", built.core, kernel.core),
        ):
            if found != wanted:
                raise BadBinary(f"{kernel.name} has the {what} {found}, declared are {wanted}")
        if built.source_sha256 != source_digest:
            raise BadBinary(f"{kernel.name} was built from another source")
        if Path(built.file).name != built.file:
            raise BadBinary(f"{built.file!r} is outside the folder")
        try:
            data = (folder / built.file).read_bytes()
        except OSError as error:
            raise BadBinary(f"{built.file}: {error.strerror}") from None
        # Before the hash: "cut off" and "for another machine" say more than "has another hash".
        try:
            elf.check(data, target)
        except BadBinary as error:
            raise BadBinary(f"{built.file}: {error}") from None
        if hashlib.sha256(data).hexdigest() != built.sha256:
            raise BadBinary(f"{built.file}: its sha256 is not the one in {NAME}")
        return File(folder / built.file, data)
