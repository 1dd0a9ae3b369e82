"""Contracts: what each target looked like in a version of the patched package.

A contract set is a JSON file per version. It is generated from sources
(`contract_builder`) and compared with sources (`contract_check`); neither imports the package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .errors import ContractError
from .vocabulary import Retarget

FORMAT = 1


class Contract(NamedTuple):
    """One target in one version.

    Attributes:
        kind: what it is, see `syntax.Definition`.
        signature: parameters with defaults, without annotations.
        syntax: sha256 of its normalised syntax, '' for what must not exist yet.
        file: its file, from the package's parent folder.
        sha256: of that whole file; while it is unchanged nothing needs to be parsed.
        sites: for each retarget of it (`site_key`), the possible numbers of sites.
        overridden_by: subclasses in the package that define the attribute themselves.
        aliased_in: modules that bind the object under a name of their own.
    """

    kind: str
    signature: str
    syntax: str
    file: str
    sha256: str
    sites: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    overridden_by: tuple[str, ...] = ()
    aliased_in: tuple[str, ...] = ()


ABSENT = "absent"  # the kind of an Add target: the name is free


class ContractSet(NamedTuple):
    """The contracts of one version, by the text of their target."""

    version: str
    targets: Mapping[str, Contract]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ContractSet:
        """Read a contract file.

        Raises:
            ContractError: it cannot be read or has another format.
        """
        try:
            raw = json.loads(Path(path).read_bytes())
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']}, this engine reads {FORMAT}")
            return cls(raw["version"], {name: _contract(entry) for name, entry in raw["targets"].items()})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ContractError(
                f"contract file {path} cannot be read ({type(error).__name__}: {error}): "
                "generate it again with 'ascend-patch verify --update'"
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, one target after the other, keys sorted, so that diffs are readable."""
        targets = {name: _entry(self.targets[name]) for name in sorted(self.targets)}
        text = json.dumps({"format": FORMAT, "version": self.version, "targets": targets}, indent=1)
        Path(path).write_text(text + "\n", "utf-8")


def _contract(entry: dict[str, Any]) -> Contract:
    return Contract(
        kind=entry["kind"],
        signature=entry.get("signature", ""),
        syntax=entry.get("syntax", ""),
        file=entry["file"],
        sha256=entry["sha256"],
        sites={key: tuple(counts) for key, counts in entry.get("sites", {}).items()},
        overridden_by=tuple(entry.get("overridden_by", ())),
        aliased_in=tuple(entry.get("aliased_in", ())),
    )


def _entry(contract: Contract) -> dict[str, Any]:
    return {name: value for name, value in contract._asdict().items() if value}


def site_key(rewrite: Retarget) -> str:
    """What a retarget looks for, as text: the key of its site counts in a contract."""
    parts = [f"{old}>{new}" for old, new in sorted(rewrite.names.items())]
    parts += [f"{old!r}>{new!r}" for old, new in sorted(rewrite.strings.items())]
    parts += [f"!{name}" for name in sorted(rewrite.never_after)]
    return " ".join(parts)


class ContractStore:
    """The contract sets in a folder, one ``<version>.json`` each, read when asked for."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._sets: dict[str, ContractSet] = {}
        self._files: set[str] | None = None

    @classmethod
    def of(cls, sets: Iterable[ContractSet]) -> ContractStore:
        """A store that holds these sets and reads nothing."""
        store = cls(os.devnull)
        store._sets = {item.version: item for item in sets}
        return store

    def versions(self) -> tuple[str, ...]:
        """The versions that have contracts, oldest first."""
        from packaging.version import Version

        if self._files is None:
            self._files = {path.stem for path in self.folder.glob("*.json")} if self.folder.is_dir() else set()
        return tuple(sorted(self._files | set(self._sets), key=Version))

    def get(self, version: str) -> ContractSet | None:
        """The contracts of exactly this version (its release, see `versions.release_of`)."""
        from .versions import release_of

        release = release_of(version)
        return self._load(release) if release in self.versions() else None

    def by_distance(self, version: str, specifier: str) -> Iterator[ContractSet]:
        """The contract sets inside `specifier`, nearest first: the version itself, then older ones, then newer ones."""
        from packaging.version import Version

        from .versions import fits, release_of

        here = Version(release_of(version))
        candidates = [Version(text) for text in self.versions() if fits(text, specifier)]
        older = sorted((item for item in candidates if item <= here), reverse=True)
        newer = sorted(item for item in candidates if item > here)
        texts = {Version(text): text for text in self.versions()}
        for item in (*older, *newer):
            yield self._load(texts[item])

    def _load(self, version: str) -> ContractSet:
        if version not in self._sets:
            self._sets[version] = ContractSet.load(self.folder / f"{version}.json")
        return self._sets[version]
