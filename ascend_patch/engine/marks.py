"""Which objects are ours: the table that makes a second application a no-op and an undo safe."""

from __future__ import annotations

from types import CodeType
from typing import Any

ATTRIBUTE = "__ascend_patch__"

# Keyed by identity, because classes, constants and instances need be neither hashable nor open to new
# attributes. The object is kept beside its owner, so an id cannot be taken over by another object.
_owners: dict[int, tuple[object, str]] = {}


def mark(obj: object, patch: str) -> None:
    """Record that `patch` installed `obj`; on plain functions also as an attribute, for whoever looks at it.

    Constants are not marked: there is only one True, and it is not ours.
    """
    if is_constant(obj):
        return
    _owners[id(obj)] = (obj, patch)
    if type(obj).__name__ == "function":
        setattr(obj, ATTRIBUTE, patch)


def unmark(obj: object) -> None:
    """Forget it again."""
    _owners.pop(id(obj), None)
    if type(obj).__name__ == "function" and ATTRIBUTE in vars(obj):
        delattr(obj, ATTRIBUTE)


def owner_of(obj: object) -> str:
    """The patch that installed `obj`, or ''."""
    entry = _owners.get(id(obj))
    return entry[1] if entry is not None and entry[0] is obj else ""


_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset, type(...))


def is_constant(obj: object) -> bool:
    """Whether equal values may be one and the same object, so that identity says nothing about origin."""
    return isinstance(obj, _CONSTANTS)


def describe(obj: Any) -> str:
    """The object for people: whose it is and where it comes from."""
    if isinstance(obj, CodeType):
        return f"code from {obj.co_filename}:{obj.co_firstlineno}"
    patch = owner_of(obj)
    function = getattr(obj, "__func__", None) or getattr(obj, "fget", None) or obj
    module = getattr(function, "__module__", None) or type(obj).__module__
    name = getattr(function, "__qualname__", None) or repr(obj)[:80]
    return f"{module}.{name}" + (f" (patch {patch})" if patch else "")
