"""Contracts: what each target looked like in a version of the patched package.

A contract set is a JSON file per version. It is generated from sources
(`contract_building`) and compared with sources (`contract_checking`); neither imports the package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ascend_patch.value import Value

from .errors import ContractError
from .vocabulary import Retarget

FORMAT = 3


class Contract(Value):
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
        uses: of a kernel that is replaced, for each function of the package what it does with it (`launches.Uses`).
        kernels: of a function that is replaced, the kernels that it launches itself, with their syntax.
        also: further files that `uses` and `kernels` speak of, with their sha256.
    """

    kind: str
    signature: str
    syntax: str
    file: str
    sha256: str
    sites: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    overridden_by: tuple[str, ...] = ()
    aliased_in: tuple[str, ...] = ()
    uses: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    kernels: Mapping[str, str] = MappingProxyType({})
    also: Mapping[str, str] = MappingProxyType({})


ABSENT = "absent"  # the kind of an Add target: the name is free


class ContractSet(Value):
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
            files = raw["files"]
            return cls(raw["version"], {name: _contract(name, entry, files) for name, entry in raw["targets"].items()})
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise ContractError(
                f"contract file {path} cannot be read ({type(error).__name__}: {error}): "
                "generate it again with 'ascend-patch verify --all --update'"
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file: a line for each target, names sorted, each file's hash once, so that diffs are readable."""
        files = {contract.file: contract.sha256 for contract in self.targets.values()}
        for contract in self.targets.values():
            files.update(contract.also)
        parts = [
            f'"format": {FORMAT}',
            f'"version": {json.dumps(self.version)}',
            f'"files": {_lines(files)}',
            f'"targets": {_lines({name: _entry(name, contract) for name, contract in self.targets.items()})}',
        ]
        Path(path).write_text("{\n " + ",\n ".join(parts) + "\n}\n", "utf-8")


def _lines(entries: Mapping[str, Any]) -> str:
    """A JSON object with one line for each entry."""
    lines = [f"  {json.dumps(name)}: {json.dumps(entries[name])}" for name in sorted(entries)]
    return "{\n" + ",\n".join(lines) + "\n }"


def _contract(target: str, entry: dict[str, Any], files: Mapping[str, str]) -> Contract:
    file = entry.get("file") or next(name for name in _usual_files(target) if name in files)
    return Contract(
        kind=entry["kind"],
        signature=entry.get("signature", ""),
        syntax=entry.get("syntax", ""),
        file=file,
        sha256=files[file],
        sites={key: tuple(counts) for key, counts in entry.get("sites", {}).items()},
        overridden_by=tuple(entry.get("overridden_by", ())),
        aliased_in=tuple(entry.get("aliased_in", ())),
        uses={site: tuple(uses) for site, uses in entry.get("uses", {}).items()},
        kernels=entry.get("kernels", {}),
        also={name: files[name] for name in entry.get("also", ())},
    )


def _entry(target: str, contract: Contract) -> dict[str, Any]:
    entry = {name: value for name, value in contract.as_dict().items() if value and name != "sha256"}
    if contract.file in _usual_files(target):
        del entry["file"]
    if contract.also:
        entry["also"] = sorted(contract.also)
    return entry


def _usual_files(target: str) -> tuple[str, str]:
    """Where a target is unless a base class in another module defines it."""
    stem = target.partition(":")[0].replace(".", "/")
    return f"{stem}.py", f"{stem}/__init__.py"


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
        self.unreadable: tuple[str, ...] = ()

    @classmethod
    def of(cls, sets: Iterable[ContractSet]) -> ContractStore:
        """A store that holds these sets and reads nothing."""
        store = cls(os.devnull)
        store._sets = {item.version: item for item in sets}
        return store

    def readable(self) -> ContractStore:
        """The sets whose files can be read, all read now, and in `unreadable` the others: for writing those anew."""
        sets, others = [], []
        for version in self.versions():
            try:
                sets.append(self._load(version))
            except ContractError:
                others.append(version)
        store = self.of(sets)
        store.unreadable = tuple(others)
        return store

    def versions(self) -> tuple[str, ...]:
        """The versions that have contracts, oldest first."""
        from packaging.version import Version

        return tuple(sorted(self._names(), key=Version))

    def get(self, version: str) -> ContractSet | None:
        """The contracts of exactly this version (its release, see `versions.release_of`)."""
        from .versions import release_of

        release = release_of(version)
        return self._load(release) if release in self._names() else None

    def by_distance(self, version: str, specifier: str) -> Iterator[ContractSet]:
        """The contract sets inside `specifier`, nearest first: the version itself, then older ones, then newer ones.

        Each is read when it is asked for, so that a start with a known version reads one file.
        """
        from packaging.version import Version

        from .versions import fits, release_of

        release = release_of(version)
        exact = self.get(version) if fits(version, specifier) else None
        if exact is not None:
            yield exact
        here = Version(release)
        others = [text for text in self.versions() if text != release and fits(text, specifier)]
        for text in reversed(others):
            if Version(text) <= here:
                yield self._load(text)
        for text in others:
            if Version(text) > here:
                yield self._load(text)

    def _names(self) -> set[str]:
        if self._files is None:
            self._files = {path.stem for path in self.folder.glob("*.json")} if self.folder.is_dir() else set()
        return self._files | self._sets.keys()

    def _load(self, version: str) -> ContractSet:
        if version not in self._sets:
            self._sets[version] = ContractSet.load(self.folder / f"{version}.json")
        return self._sets[version]
