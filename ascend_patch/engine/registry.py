"""The patches there are: loaded from the modules that declare them, checked, and put in order."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType

from .vocabulary import Add, DeclarationError, Patch, Register, Replace, Rewrite, Variant, Wrap


def load(package: str = "ascend_patch.patches") -> Registry:
    """Import every patch module below `package` and collect what they declare.

    A module whose name begins with ``_`` is a helper. Every other module that is not a
    package must hold ``PATCH``, which must say how to recognise that it can go.

    Raises:
        DeclarationError: a module cannot be imported or declares something wrong.
    """
    root = importlib.import_module(package)
    return Registry.from_patches(_declared(root))


def _declared(package: ModuleType) -> Iterator[Patch]:
    for stem, is_package in sorted(_inside(package)):
        name = f"{package.__name__}.{stem}"
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise DeclarationError(
                f"patch module {name} cannot be imported ({type(error).__name__}: {error}): "
                "it must not need the patched package or torch; move such code to a sibling _module"
            ) from error
        if is_package:
            yield from _declared(module)
            continue
        patch = getattr(module, "PATCH", None)
        if not isinstance(patch, Patch):
            raise DeclarationError(f"patch module {name} has no PATCH = Patch(...)")
        if not patch.expires and not patch.no_sign:
            raise DeclarationError(
                f"patch {patch.id} in {name} does not say how to recognise that upstream no longer needs it: "
                'declare expires=(Expiry(...),), or no_sign="why the sources cannot show it"'
            )
        yield patch.changed(module=name)


def _inside(package: ModuleType) -> Iterator[tuple[str, bool]]:
    """The names of the modules in a package that are no helpers, and whether each is a package; `pkgutil` takes longer.

    Each process that starts does this.
    """
    for folder in package.__path__:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, _, extension = entry.name.partition(".")
                if stem.startswith("_") or not stem:
                    continue
                if extension == "py":
                    yield stem, False
                elif not extension and Path(entry.path, "__init__.py").exists():
                    yield stem, True


class Registry:
    """All known patches by id, in an order in which each comes after those it requires."""

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self._patches = MappingProxyType(dict(patches))

    @classmethod
    def from_patches(cls, patches: Iterable[Patch]) -> Registry:
        """Check the patches against each other and order them.

        Raises:
            DeclarationError: an id twice, an unknown id, a cycle, a patch in conflict with one it
                requires, overlapping variants of one patch, or a dangling local reference.
        """
        known: dict[str, Patch] = {}
        for patch in patches:
            if patch.id in known:
                raise DeclarationError(f"patch {patch.id} is declared twice: {known[patch.id].module}, {patch.module}")
            known[patch.id] = patch
        for patch in known.values():
            for other in (*patch.requires, *patch.conflicts):
                if other not in known:
                    raise DeclarationError(f"patch {patch.id} names {other}, which does not exist")
        registry = cls({id: known[id] for id in _in_order(known)})
        for patch in registry:
            registry._check(patch)
        return registry

    def _check(self, patch: Patch) -> None:
        for other in self.feature(patch.id):
            if other in patch.conflicts or patch.id in self[other].conflicts:
                raise DeclarationError(f"patch {patch.id} requires {other} and conflicts with it")
        for variant in patch.variants:
            for rewrite in variant.rewrites:
                for reference in references(rewrite):
                    if reference.startswith(":") and not _exists(patch.module, reference[1:]):
                        raise DeclarationError(
                            f"patch {patch.id} names {reference}, which {patch.module} does not hold"
                        )

    def __getitem__(self, id: str) -> Patch:
        return self._patches[id]

    def __iter__(self) -> Iterator[Patch]:
        return iter(self._patches.values())

    def __len__(self) -> int:
        return len(self._patches)

    def __contains__(self, id: object) -> bool:
        return id in self._patches

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._patches)

    def feature(self, id: str) -> tuple[str, ...]:
        """The patch and everything it requires, transitively, in the order of application."""
        members: set[str] = set()
        waiting = [id]
        while waiting:
            member = waiting.pop()
            if member not in members:
                members.add(member)
                waiting.extend(self[member].requires)
        return tuple(member for member in self._patches if member in members)

    def dependents(self, id: str) -> tuple[str, ...]:
        """The patches that require `id`, transitively, without itself."""
        return tuple(other for other in self._patches if other != id and id in self.feature(other))

    def suggest(self, id: str) -> str:
        """The known id that looks most like `id`, or ''."""
        return next(iter(difflib.get_close_matches(id, self._patches, n=1)), "")

    def missing_references(self) -> list[str]:
        """References to objects in other modules that do not exist, found without importing those modules."""
        problems = []
        for patch in self:
            for rewrite in (item for variant in patch.variants for item in variant.rewrites):
                for reference in references(rewrite):
                    module, _, name = reference.partition(":")
                    if module and not _exists_in_source(module, name):
                        problems.append(f"{patch.id}: {reference} does not exist")
        return problems


def references(rewrite: Rewrite) -> tuple[str, ...]:
    """The reference strings of a rewrite."""
    if isinstance(rewrite, (Replace, Wrap, Add)):
        return (rewrite.by,)
    if isinstance(rewrite, Register) and not rewrite.literal:
        return (rewrite.value,)
    return ()


def rewrites_of(variant: Variant, module: str) -> tuple[Rewrite, ...]:
    """The variant's rewrites whose target lies in `module`."""
    return tuple(rewrite for rewrite in variant.rewrites if rewrite.place.module == module)


def _exists(module: str, qualname: str) -> bool:
    place: object = importlib.import_module(module) if module else None
    for part in qualname.split("."):
        if place is None or part not in vars(place):
            return False
        place = vars(place)[part]
    return True


def _exists_in_source(module: str, qualname: str) -> bool:
    import ast

    from .syntax import bindings

    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return spec is not None
    tree = ast.parse(Path(spec.origin).read_bytes())
    return bool(bindings(tree.body, qualname.partition(".")[0]))


def _in_order(known: Mapping[str, Patch]) -> list[str]:
    """Ids sorted so that requirements come first; ties by id.

    Raises:
        DeclarationError: the requirements form a cycle.
    """
    order: list[str] = []
    open_: list[str] = []

    def visit(id: str) -> None:
        if id in order:
            return
        if id in open_:
            raise DeclarationError(
                f"patches require each other in a circle: {' -> '.join([*open_[open_.index(id) :], id])}"
            )
        open_.append(id)
        for other in sorted(known[id].requires):
            visit(other)
        open_.pop()
        order.append(id)

    for id in sorted(known):
        visit(id)
    return order
