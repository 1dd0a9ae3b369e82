"""Source trees: the patched package's files as text, wherever they lie, without importing anything.

A tree is an installed package, a checkout, a wheel or an sdist. They differ only in
how a file is read, so each is reduced to two functions: list the names, read one.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from ascend_patch.value import Value

from .errors import SourceError
from .installed import distribution_version
from .versions import is_version

_SKIPPED_FOLDERS = frozenset({"__pycache__", ".git", "node_modules"})


class SourceFile(Value):
    """One module's source.

    Attributes:
        module: dotted name.
        path: for people: a path, or ``archive:member``.
    """

    module: str
    path: str
    data: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def text(self) -> str:
        return self.data.decode("utf-8", errors="replace")

    @cached_property
    def syntax(self) -> ast.Module:
        """The parsed file.

        Raises:
            SourceError: it is not valid Python for this interpreter.
        """
        try:
            return ast.parse(self.data, self.path)
        except (SyntaxError, ValueError) as error:
            raise SourceError(f"{self.path} cannot be parsed by this Python: {error}") from None


class SourceTree:
    """The sources of one version of one package. Make one with `SourceTree.open`.

    Attributes:
        stated_version: what the tree says about itself, whether or not that is a version; None when it does not say.
    """

    def __init__(
        self,
        package: str,
        *,
        origin: str,
        kind: str,
        version: str | None,
        locate: Callable[[str], str | None],
        read: Callable[[str], bytes],
        names: Callable[[], Iterable[str]],
    ) -> None:
        self.package = package
        self.origin = origin
        self.kind = kind
        self.stated_version = version
        self._locate = locate
        self._read = read
        self._names = names
        self._files: dict[str, SourceFile | None] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        package: str,
        distribution: str | None = None,
        version: str | None = None,
    ) -> SourceTree:
        """Open the tree at `path`, or the installed one.

        Args:
            path: a package folder, a checkout that holds one, a wheel or an sdist.
            version: overrides what the tree says about itself.

        Raises:
            SourceError: there is no such package there.
        """
        distribution = distribution or package
        if path is None:
            return _open_installed(package, distribution, version)
        place = Path(path)
        if place.is_dir():
            return _open_folder(place, package, version)
        if place.is_file():
            try:
                return _open_archive(place, package, distribution, version)
            except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
                reason = str(error).partition("\n")[0].rstrip(":")
                raise SourceError(f"{place} is neither a readable wheel nor a readable sdist: {reason}") from None
        raise SourceError(
            f"{place} does not exist: give a package folder, a checkout, a wheel or an sdist of {package}"
        )

    @property
    def version(self) -> str:
        """The PEP 440 version.

        Raises:
            SourceError: the tree does not say.
        """
        if self.stated_version is None:
            raise SourceError(f"{self.origin} does not say which version of {self.package} it is: name the version")
        if not is_version(self.stated_version):
            raise SourceError(f"{self.origin} says version {self.stated_version!r}, which is not a PEP 440 version")
        return self.stated_version

    def find(self, module: str) -> SourceFile | None:
        """The source of `module`, or None when the tree has no such Python module."""
        if module not in self._files:
            name = self._locate(module)
            self._files[module] = None if name is None else SourceFile(module, self._shown(name), self._read(name))
        return self._files[module]

    def looked_for(self) -> set[str]:
        """The paths at which modules were looked for so far, those that are not there included (folders only)."""
        return {self._shown(name) for module in self._files for name in _candidates(module)}

    def modules(self) -> tuple[str, ...]:
        """The dotted names of all modules, sorted."""
        return tuple(sorted(module_name(name) for name in self._names()))

    def relative(self, file: SourceFile) -> str:
        """The file's path from the package's parent folder, with forward slashes: the same in every kind of tree."""
        stem = file.module.replace(".", "/")
        return f"{stem}/__init__.py" if file.path.replace(os.sep, "/").endswith("/__init__.py") else f"{stem}.py"

    def _shown(self, name: str) -> str:
        return f"{self.origin}:{name}" if self.kind in ("wheel", "sdist") else str(Path(self.origin, name))


def module_name(name: str) -> str:
    """The dotted name of the module that a path from the package's parent folder holds."""
    stem = name[: -len(".py")].replace(os.sep, ".").replace("/", ".")
    return stem[: -len(".__init__")] if stem.endswith(".__init__") else stem


def _candidates(module: str) -> tuple[str, str]:
    stem = module.replace(".", "/")
    return f"{stem}.py", f"{stem}/__init__.py"


def _folder_tree(parent: Path, package: str, kind: str, version: str | None) -> SourceTree:
    def locate(module: str) -> str | None:
        if module != package and not module.startswith(package + "."):
            return None
        return next((name for name in _candidates(module) if (parent / name).is_file()), None)

    def names() -> Iterable[str]:
        for folder, folders, files in os.walk(parent / package):
            folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
            for name in files:
                if name.endswith(".py"):
                    yield str(Path(folder, name).relative_to(parent))

    def read(name: str) -> bytes:
        return (parent / name).read_bytes()

    return SourceTree(package, origin=str(parent), kind=kind, version=version, locate=locate, read=read, names=names)


def _open_installed(package: str, distribution: str, version: str | None) -> SourceTree:
    for entry in sys.path:
        parent = Path(entry or ".")
        if (parent / package / "__init__.py").is_file():
            found = version or distribution_version(distribution) or _version_in_folder(parent, package)
            return _folder_tree(parent.absolute(), package, "installed", found)
    module = sys.modules.get(package)
    folder = list(getattr(module, "__path__", None) or _editable_locations(package))
    if folder:
        parent = Path(folder[0]).parent
        found = version or distribution_version(distribution) or _version_in_folder(parent, package)
        return _folder_tree(parent.absolute(), package, "installed", found)
    raise SourceError(f"{package} is not installed in this environment: install it, or name a source tree")


def _editable_locations(package: str) -> Iterable[str]:
    """Where an editable install that works through a finder keeps the package."""
    for finder in sys.meta_path:
        if getattr(finder, "__module__", "").startswith("__editable__"):
            spec = finder.find_spec(package, None)
            if spec is not None:
                return list(spec.submodule_search_locations or ())
    return ()


def _open_folder(place: Path, package: str, version: str | None) -> SourceTree:
    for parent in (place, place / "src", place.parent):
        is_the_package = parent == place.parent
        if (parent / package / "__init__.py").is_file() and (not is_the_package or place.name == package):
            found = version or _version_in_folder(parent, package)
            return _folder_tree(parent.absolute(), package, "folder", found)
    raise SourceError(f"{place} holds no package {package}: give the folder {package}/ or the one that contains it")


def _version_in_folder(parent: Path, package: str) -> str | None:
    """What the tree says about its version: metadata beside it, a generated version file, the folder's own name."""
    metadata = distribution_version(package, [str(parent)])
    if metadata is not None:
        return metadata
    for name in (parent / "PKG-INFO", parent.parent / "PKG-INFO"):
        if name.is_file():
            return _metadata_version(name.read_text("utf-8", errors="replace"))
    for name in (parent / package / "_version.py", parent / package / "version.py"):
        if name.is_file():
            found = re.search(r"^(?:__version__|version)\b[^'\"\n]*['\"]([^'\"]+)['\"]", name.read_text("utf-8"), re.M)
            if found:
                return found.group(1)
    found = re.search(rf"{re.escape(package)}-v?(\d[\w.+!]*)$", parent.name)
    return found.group(1) if found else None


def _metadata_version(text: str) -> str | None:
    found = re.search(r"^Version:\s*(\S+)", text, re.M)
    return found.group(1) if found else None


def _open_archive(place: Path, package: str, distribution: str, version: str | None) -> SourceTree:
    """Read the package's files in an archive into memory; only commands open archives, never a start."""
    members: dict[str, bytes] = {}
    metadata: str | None = None
    zipped = zipfile.is_zipfile(place)
    for name, read in _zip_members(place) if zipped else _tar_members(place):
        parts = name.split("/")
        if parts[-1] in ("METADATA", "PKG-INFO") and len(parts) == 2:
            metadata = read().decode("utf-8", errors="replace")
        elif name.endswith(".py"):
            inside = parts if zipped and parts[0] == package else parts[1:]
            if inside and inside[0] == "src":
                inside = inside[1:]
            if inside and inside[0] == package:
                members["/".join(inside)] = read()
    if f"{package}/__init__.py" not in members:
        raise SourceError(f"{place} holds no package {package}")
    return memory_tree(
        package,
        members,
        origin=str(place),
        kind="wheel" if zipped else "sdist",
        version=version or (_metadata_version(metadata) if metadata else None),
    )


def memory_tree(
    package: str, members: Mapping[str, bytes], *, origin: str, kind: str, version: str | None
) -> SourceTree:
    """A tree over files held in memory, keyed by their path from the package's parent folder."""
    return SourceTree(
        package,
        origin=origin,
        kind=kind,
        version=version,
        locate=lambda module: next((name for name in _candidates(module) if name in members), None),
        read=members.__getitem__,
        names=lambda: members,
    )


def _zip_members(place: Path) -> Iterable[tuple[str, Callable[[], bytes]]]:
    with zipfile.ZipFile(place) as archive:
        for name in archive.namelist():
            yield name, lambda name=name: archive.read(name)  # type: ignore[misc]


def _tar_members(place: Path) -> Iterable[tuple[str, Callable[[], bytes]]]:
    with tarfile.open(place) as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.isfile() else None
            if handle is not None:
                yield member.name, handle.read
