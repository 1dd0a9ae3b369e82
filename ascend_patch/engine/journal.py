"""The journal: every change that was made, by patch and in order, so that it can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType

from ascend_patch.value import Value

from . import aliases, marks
from .slots import Change, SlotChange


class Entry(Value):
    """One change and the patch that made it."""

    patch: str
    change: Change


class Journal:
    """The changes in one process. Not thread-safe by itself: its overlay's lock protects it."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._entries: list[Entry] = []
        self._overwritten: list[Entry] = []
        self._touched: set[str] = set()

    def add(self, patch: str, changes: Iterable[Change], modules: Callable[[], Iterable[ModuleType]]) -> list[str]:
        """Enter changes that were just made, and make aliases in these modules follow; returns the aliases' places."""
        changes = list(changes)
        self._enter(patch, *changes)
        replaced = aliases.followed(changes)
        found = list(aliases.find(replaced, modules())) if replaced else []
        for alias in found:
            self._enter(patch, aliases.rewrite(alias, patch))
        return [str(alias) for alias in found]

    def _enter(self, patch: str, *changes: Change) -> None:
        for change in changes:
            self._entries.append(Entry(patch, change))
            if change.module is not None:
                self._touched.add(change.module.__name__)

    def sweep(self) -> dict[str, list[str]]:
        """Look through the whole package for names that still hold an original; returns the places by patch."""
        modules = aliases.loaded(self._package)
        by_patch: dict[str, list[Change]] = {}
        for entry in self._entries:
            by_patch.setdefault(entry.patch, []).append(entry.change)
        layers = {patch: aliases.followed(changes) for patch, changes in by_patch.items()}
        replaced = {id: change for layer in layers.values() for id, change in layer.items()}
        holding = {alias.module.__name__: alias.module for alias in aliases.find(replaced, modules)}
        places: dict[str, list[str]] = {}
        for patch, layer in layers.items():  # in journal order: an alias climbs layer by layer to the top
            for alias in list(aliases.find(layer, holding.values())):
                self._enter(patch, aliases.rewrite(alias, patch))
                places.setdefault(patch, []).append(str(alias))
        return places

    def stale(self) -> dict[str, list[str]]:
        """Names in any module that still hold what was replaced, by patch; nothing is changed."""
        owners = {id(entry.change): entry.patch for entry in self._entries}
        places: dict[str, list[str]] = {}
        for alias in aliases.find(aliases.followed(entry.change for entry in self._entries), aliases.loaded()):
            # A patch on top of another replaced our own function, which the module that defines it goes on holding.
            stored = alias.change.slot.stored
            if not (marks.owner_of(stored) and getattr(stored, "__module__", "") == alias.module.__name__):
                places.setdefault(owners[id(alias.change)], []).append(str(alias))
        return places

    def executed_again(self, module: ModuleType) -> None:
        """After a reload the module's own slots hold new objects; only importers can still hold what was there."""
        if module.__name__ not in self._touched:  # nearly always: it has executed for the first time
            return
        gone = [entry for entry in self._entries if entry.change.module is module and not entry.change.in_force]
        if gone:
            self._entries = [entry for entry in self._entries if entry not in gone]
            self._overwritten += gone

    def above(self, patches: set[str]) -> set[str]:
        """Other patches with a change on top of one of these patches', in the same place."""
        found: set[str] = set()
        seen: set[str] = set()
        for entry in self._entries:
            if entry.patch in patches:
                seen.add(entry.change.place)
            elif entry.change.place in seen:
                found.add(entry.patch)
        return found

    def take_back(self, patches: set[str]) -> list[str]:
        """Undo all changes of these patches, last first.

        Returns:
            One line for each place that somebody else changed since; it is left alone.
        """
        kept: list[str] = []
        rest: list[Entry] = []
        undone: list[SlotChange] = []
        for entry in reversed(self._entries):
            if entry.patch not in patches:
                rest.append(entry)
                continue
            holder = entry.change.undo()
            if holder:
                kept.append(f"{entry.change.place} is held by {holder}")
            elif isinstance(entry.change, SlotChange):
                undone.append(entry.change)
        undone += [
            entry.change
            for entry in self._overwritten
            if entry.patch in patches and isinstance(entry.change, SlotChange)
        ]
        self._entries = rest[::-1]
        self._overwritten = [entry for entry in self._overwritten if entry.patch not in patches]
        aliases.restore(undone, (entry.change for entry in rest), aliases.loaded(self._package))
        return kept
