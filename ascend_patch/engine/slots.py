"""Slots and the changes made to them. Every change knows how to undo itself, and only over its own object."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any, Protocol

from ascend_patch.value import Value

from . import marks
from .errors import RewriteError
from .vocabulary import Target

_ABSENT: Any = object()


class Change(Protocol):
    """Something that was changed in memory."""

    @property
    def place(self) -> str: ...

    @property
    def module(self) -> ModuleType | None:
        """The module whose namespace was changed, if it was one: executing it again overwrites the change."""
        ...

    @property
    def in_force(self) -> bool:
        """Whether our object still is where we put it."""
        ...

    def undo(self) -> str:
        """Put back what was there. Returns '' or, when somebody else holds the place by now, who; it then stays."""
        ...


class Slot(Value):
    """An attribute of a module or class.

    Attributes:
        stored: what the attribute's owner holds, descriptors not unwrapped; absent when nothing is there.
        own: whether `holder` itself holds it, not one of its base classes.
    """

    place: Target
    holder: ModuleType | type
    name: str
    stored: object
    own: bool

    @property
    def empty(self) -> bool:
        return self.stored is _ABSENT

    @property
    def current(self) -> object:
        """What `holder` itself holds now."""
        return vars(self.holder).get(self.name, _ABSENT)


def locate(module: ModuleType, place: Target) -> Slot:
    """Find the slot a target names, by the owners' dictionaries, so that nothing is imported or computed on the way.

    Raises:
        RewriteError: something on the way does not exist.
    """
    *outer, name = place.qualname.split(".")
    holder: Any = module
    for part in outer:
        _, holder = _look_up(holder, part)
        if not isinstance(holder, type):
            raise RewriteError(f"{place}: {part} is not a class in {module.__name__}")
    owner, stored = _look_up(holder, name)
    return Slot(place, holder, name, stored, owner is holder)


def _look_up(holder: Any, name: str) -> tuple[object, Any]:
    """The object that holds `name`, and what it holds; along the base classes of a class."""
    for owner in holder.__mro__ if isinstance(holder, type) else (holder,):
        if name in vars(owner):
            return owner, vars(owner)[name]
    return None, _ABSENT


class SlotChange:
    """A slot got a new object."""

    def __init__(self, slot: Slot, new: object) -> None:
        self.slot, self.new = slot, new

    @classmethod
    def make(cls, slot: Slot, new: object, patch: str) -> SlotChange:
        setattr(slot.holder, slot.name, new)
        if vars(slot.holder).get(slot.name, _ABSENT) is not new:
            raise RewriteError(f"{slot.place}: {slot.holder!r} does not keep what is assigned to it")
        marks.mark(unwrapped(new), patch)
        return cls(slot, new)

    @property
    def place(self) -> str:
        return str(self.slot.place)

    @property
    def module(self) -> ModuleType | None:
        return self.slot.holder if isinstance(self.slot.holder, ModuleType) else None

    @property
    def in_force(self) -> bool:
        return self.slot.current is self.new

    def undo(self) -> str:
        if not self.in_force:
            return "nobody" if self.slot.current is _ABSENT else marks.describe(self.slot.current)
        if self.slot.own:
            setattr(self.slot.holder, self.slot.name, self.slot.stored)
        else:
            delattr(self.slot.holder, self.slot.name)
        return ""


class CodeChange:
    """A function got a new code object; whoever holds the function follows."""

    def __init__(self, target: Target, function: FunctionType, old: CodeType, new: CodeType) -> None:
        self.target, self.function, self.old, self.new = target, function, old, new

    @classmethod
    def make(cls, target: Target, function: FunctionType, new: CodeType) -> CodeChange:
        change = cls(target, function, function.__code__, new)
        function.__code__ = new
        return change

    @property
    def place(self) -> str:
        return str(self.target)

    @property
    def module(self) -> None:
        return None

    @property
    def in_force(self) -> bool:
        return self.function.__code__ is self.new

    def undo(self) -> str:
        if not self.in_force:
            return marks.describe(self.function.__code__)
        self.function.__code__ = self.old
        return ""


class EntryChange:
    """A mapping got an entry."""

    def __init__(
        self, target: Target, mapping: MutableMapping[Any, Any], key: object, old: object, new: object
    ) -> None:
        self.target, self.mapping, self.key, self.old, self.new = target, mapping, key, old, new

    @classmethod
    def make(
        cls, target: Target, mapping: MutableMapping[Any, Any], key: object, new: object, patch: str
    ) -> EntryChange:
        change = cls(target, mapping, key, mapping.get(key, _ABSENT), new)
        mapping[key] = new
        marks.mark(new, patch)
        return change

    @property
    def place(self) -> str:
        return f"{self.target}[{self.key!r}]"

    @property
    def module(self) -> None:
        return None

    @property
    def in_force(self) -> bool:
        return self.key in self.mapping and self.mapping[self.key] is self.new

    def undo(self) -> str:
        if not self.in_force:
            return marks.describe(self.mapping[self.key]) if self.key in self.mapping else "nobody"
        if self.old is _ABSENT:
            del self.mapping[self.key]
        else:
            self.mapping[self.key] = self.old
        return ""


def unwrapped(stored: Any) -> Any:
    """The function inside a descriptor of the standard kinds; anything else itself."""
    if isinstance(stored, (staticmethod, classmethod)):
        return stored.__func__
    if isinstance(stored, property):
        return stored.fget
    if isinstance(stored, cached_property):
        return stored.func
    return stored


def fitted(value: object, slot: Slot) -> object:
    """`value` in the descriptor that the slot's present content comes in.

    A value that already is a descriptor goes in as it is.
    """
    stored = slot.stored
    if not isinstance(slot.holder, type) or not isinstance(value, FunctionType):
        return value
    if isinstance(stored, (staticmethod, classmethod)):
        return type(stored)(value)
    if isinstance(stored, property):
        return property(value, stored.fset, stored.fdel, stored.__doc__)
    if isinstance(stored, cached_property):
        cached: cached_property[Any] = cached_property(value)
        cached.__set_name__(slot.holder, slot.name)
        return cached
    return value
