"""Renaming names and string constants inside code objects.

The unit that is counted, a *site*, is one (code object, name) or (code object, constant)
pair: a code object holds each name once, however often the function uses it. Functions
nested in the target are code objects of their own and count too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

from ascend_patch.value import Value

from .errors import RewriteError
from .vocabulary import Retarget

_SILENT_OPERATIONS = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL"})
_NAME_OPERATIONS = frozenset(
    {
        "LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR",
        "LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "STORE_NAME",
        "IMPORT_NAME", "IMPORT_FROM", "LOAD_SUPER_ATTR",
    }
)  # fmt: skip


class Retargeted(Value):
    """A rewritten code object and the number of sites that changed in it."""

    code: CodeType
    sites: int


def retarget(code: CodeType, rewrite: Retarget) -> Retargeted:
    """Rename inside `code` and the code objects nested in it. `code` itself is not changed.

    Raises:
        RewriteError: a name is used both after one of ``never_after`` and elsewhere in one code
            object; the two uses share a slot there and cannot be told apart.
    """
    names, renamed = _renamed_names(code, rewrite)
    constants: list[object] = []
    sites = renamed
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = retarget(constant, rewrite)
            constants.append(inner.code)
            sites += inner.sites
        else:
            exchanged = _exchanged(constant, rewrite.strings)
            sites += exchanged is not constant
            constants.append(exchanged)
    if not sites:
        return Retargeted(code, 0)
    return Retargeted(code.replace(co_names=names, co_consts=tuple(constants)), sites)


def _renamed_names(code: CodeType, rewrite: Retarget) -> tuple[tuple[str, ...], int]:
    kept = frozenset(_kept_names(code, rewrite))
    names = tuple(rewrite.names.get(name, name) if name not in kept else name for name in code.co_names)
    return names, sum(old != new for old, new in zip(code.co_names, names, strict=True))


def _kept_names(code: CodeType, rewrite: Retarget) -> Iterator[str]:
    """The listed names that this code object uses only after one of ``never_after``."""
    if not any(name in code.co_names for name in rewrite.never_after):
        return
    excepted: set[str] = set()
    ordinary: set[str] = set()
    for before, name in _name_uses(code):
        if name in rewrite.names:
            (excepted if before in rewrite.never_after else ordinary).add(name)
    for name in sorted(excepted & ordinary):
        raise RewriteError(
            f"{code.co_name} (line {code.co_firstlineno}) uses {name!r} both after one of "
            f"{', '.join(rewrite.never_after)} and elsewhere: replace or wrap it instead of retargeting"
        )
    yield from excepted


def _name_uses(code: CodeType) -> Iterator[tuple[str | None, str]]:
    """Each name the code object loads, with the name loaded by the instruction just before, if any."""
    import dis

    before: str | None = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in _SILENT_OPERATIONS:
            continue
        if instruction.opname in _NAME_OPERATIONS and isinstance(instruction.argval, str):
            yield before, instruction.argval
            before = instruction.argval
        else:
            before = None


def _exchanged(constant: Any, strings: Mapping[str, str]) -> object:
    """The constant with listed strings exchanged, also inside tuples and frozen sets; itself when none is listed."""
    if isinstance(constant, str):
        return strings.get(constant, constant)
    if isinstance(constant, (tuple, frozenset)):
        items = [_exchanged(item, strings) for item in constant]
        if any(new is not old for new, old in zip(items, constant, strict=True)):
            return type(constant)(items)
    return constant
