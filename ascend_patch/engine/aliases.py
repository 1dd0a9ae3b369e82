"""Other names for a patched object: ``from x import y`` that ran before the patch.

Only ``vars(module)`` is read, never an attribute: asking thousands of modules for an attribute
imports hundreds of others through their lazy ``__getattr__``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from types import ModuleType
from typing import Any

from ascend_patch.value import Value

from . import marks
from .slots import Change, Slot, SlotChange
from .vocabulary import Target


class Alias(Value):
    """A module-level name that holds an object which was replaced where it is defined."""

    module: ModuleType
    name: str
    change: SlotChange

    def __str__(self) -> str:
        return f"{self.module.__name__}:{self.name}"


def followed(changes: Iterable[Change]) -> Mapping[int, SlotChange]:
    """The changes whose aliases belong to the patch, by the identity of what was replaced.

    Those of a module-level object in the module that defines it. A slot that merely imports a
    thing (``torch``, say) is patched for that one module, and what others import is not touched.
    """
    index: dict[int, SlotChange] = {}
    for change in changes:
        if isinstance(change, SlotChange) and _defined_here(change.slot):
            index[id(change.slot.stored)] = change
    return index


def _defined_here(slot: Slot) -> bool:
    stored: Any = slot.stored
    if slot.empty or not isinstance(slot.holder, ModuleType) or marks.is_constant(stored):
        return False
    if isinstance(stored, ModuleType):
        return False
    # What another patch put there is followed too: the name that held it must get the topmost layer.
    return getattr(stored, "__module__", None) == slot.place.module or bool(marks.owner_of(stored))


def find(index: Mapping[int, SlotChange], modules: Iterable[ModuleType]) -> Iterator[Alias]:
    """Names in these modules that still hold what was replaced."""
    if not index:
        return
    wanted = index.keys()
    for module in modules:
        names = vars(module)
        # Nearly every module holds nothing of ours; this way it costs no step of Python per name.
        if wanted.isdisjoint(map(id, list(names.values()))):
            continue
        for name, value in list(names.items()):
            change = index.get(id(value))
            if change is not None and change.slot.stored is value:
                yield Alias(module, name, change)


def restore(undone: Iterable[SlotChange], kept: Iterable[Change], modules: Iterable[ModuleType]) -> None:
    """Give modules that imported a name while it was patched the original back.

    Args:
        undone: changes that were undone, the last one first.
        kept: changes that are still in force; their slots are not touched.
    """
    originals: dict[int, tuple[object, object]] = {}
    for change in undone:
        if isinstance(change.slot.holder, ModuleType) and not (change.slot.empty or marks.is_constant(change.new)):
            originals[id(change.new)] = (change.new, change.slot.stored)
    ours = {(id(change.slot.holder), change.slot.name) for change in kept if isinstance(change, SlotChange)}
    if not originals:
        return
    for module in modules:
        for name, value in list(vars(module).items()):
            while id(value) in originals and originals[id(value)][0] is value:
                value = originals[id(value)][1]
            if value is not vars(module).get(name) and (id(module), name) not in ours:
                setattr(module, name, value)


def loaded(package: str = "") -> list[ModuleType]:
    """The modules in ``sys.modules``, of one package or all."""
    prefix = package and package + "."
    modules = list(sys.modules.items())
    # One look at each of thousands of names.
    mine = [module for name, module in modules if name.startswith(prefix) or name == package]
    return [module for module in mine if isinstance(module, ModuleType)]


def imported_since(module: ModuleType, package: str) -> list[ModuleType]:
    """The package's modules that were first imported after `module` was: ``sys.modules`` keeps that order."""
    prefix = package + "."
    since = [sys.modules.get(name) for name in _names_since(module.__name__) if name.startswith(prefix)]
    return [neighbour for neighbour in since if isinstance(neighbour, ModuleType)]


def _names_since(name: str) -> list[str]:
    """The names in ``sys.modules`` behind this one, the last first."""
    try:
        # Mostly a few of thousands.
        return list(takewhile(name.__ne__, reversed(sys.modules)))
    except RuntimeError:  # another thread imported something meanwhile; a copy is made in one step
        return list(takewhile(name.__ne__, reversed(list(sys.modules))))


def rewrite(alias: Alias, patch: str) -> SlotChange:
    """Make an alias follow the patch; undone like any other change."""
    place = Target(alias.module.__name__, alias.name)
    slot = Slot(place, alias.module, alias.name, alias.change.slot.stored, own=True)
    return SlotChange.make(slot, alias.change.new, patch)
