"""Making the five kinds of rewrite. Each is resolved first, which may import; then made, which may not."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, MutableMapping
from functools import cached_property
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from ascend_patch.value import Value

from . import marks
from .errors import RewriteError
from .retargeting import retarget
from .slots import Change, CodeChange, EntryChange, Slot, SlotChange, fitted, locate, unwrapped
from .vocabulary import Add, Patch, Register, Replace, Retarget, Rewrite, Wrap

_VARIADIC = 0x04 | 0x08  # CO_VARARGS | CO_VARKEYWORDS


class Resolved(Value):
    """A rewrite together with the objects its references name."""

    patch: Patch
    rewrite: Rewrite
    value: Any = None
    key: object = None


def resolve(patch: Patch, rewrite: Rewrite) -> Resolved:
    """Look up a rewrite's references; imports the modules that hold them."""
    if isinstance(rewrite, (Replace, Wrap, Add)):
        return Resolved(patch, rewrite, dereference(rewrite.by, patch.module))
    if isinstance(rewrite, Register):
        value = rewrite.value if rewrite.literal else dereference(rewrite.value, patch.module)
        key = dereference(rewrite.key, patch.module) if rewrite.key_by_reference else rewrite.key
        return Resolved(patch, rewrite, value, key)
    return Resolved(patch, rewrite)


def dereference(reference: str, home: str) -> Any:
    """The object a reference string names; ``":name"`` lies in the module `home`."""
    module, _, qualname = reference.partition(":")
    place: Any = importlib.import_module(module or home)
    for part in qualname.split("."):
        place = getattr(place, part)
    return place


def make(resolved: Resolved, module: ModuleType) -> list[Change]:
    """Make the rewrite in the executed module; an empty list when it is made already.

    Raises:
        RewriteError: the place is not what the declaration says. Nothing was changed.
    """
    return _MAKERS[type(resolved.rewrite)](resolved, module)


def _make_retarget(resolved: Resolved, module: ModuleType) -> list[Change]:
    rewrite = resolved.rewrite
    assert isinstance(rewrite, Retarget)
    slot = _filled(module, rewrite)
    if not slot.own:
        raise RewriteError(f"{rewrite.target} is inherited: name the class that defines it")
    functions = _functions_of(slot.stored)
    if not functions:
        raise RewriteError(f"{rewrite.target} is not a Python function: {marks.describe(slot.stored)}")
    if all(_retargeted_by(function) == (resolved.patch.id, rewrite) for function in functions):
        return []
    codes = [retarget(function.__code__, rewrite) for function in functions]
    sites = sum(code.sites for code in codes)
    if sites not in rewrite.allowed_sites:
        allowed = " or ".join(map(str, rewrite.allowed_sites))
        raise RewriteError(f"{rewrite.target} has {sites} sites to retarget instead of {allowed}")
    changes: list[Change] = []
    for function, new in zip(functions, codes, strict=True):
        changes.append(CodeChange.make(rewrite.place, function, new.code))
        _retargets[id(function)] = (function, function.__code__, resolved.patch.id, rewrite)
    return changes


# Functions that were retargeted, by identity, with the code they got: a reload makes new functions, an undo new code.
_retargets: dict[int, tuple[FunctionType, object, str, Retarget]] = {}


def _retargeted_by(function: FunctionType) -> tuple[str, Retarget] | None:
    entry = _retargets.get(id(function))
    if entry is None or entry[0] is not function or entry[1] is not function.__code__:
        return None
    return entry[2], entry[3]


def _functions_of(stored: Any) -> list[FunctionType]:
    """The Python functions at the bottom of a descriptor and its decorators."""
    parts: list[Any] = [stored.fget, stored.fset, stored.fdel] if isinstance(stored, property) else [unwrapped(stored)]
    functions = []
    for part in parts:
        while hasattr(part, "__wrapped__"):
            part = part.__wrapped__
        if type(part) is FunctionType:
            functions.append(part)
    return functions


def _make_register(resolved: Resolved, module: ModuleType) -> list[Change]:
    rewrite = resolved.rewrite
    mapping = _filled(module, rewrite).stored
    if not isinstance(mapping, MutableMapping):
        raise RewriteError(f"{rewrite.target} is not a mapping but a {type(mapping).__name__}")
    _refuse_untraceable(resolved.patch, rewrite, resolved.value)
    if resolved.key in mapping and mapping[resolved.key] is resolved.value:
        return []
    return [EntryChange.make(rewrite.place, mapping, resolved.key, resolved.value, resolved.patch.id)]


def _make_replace(resolved: Resolved, module: ModuleType) -> list[Change]:
    slot = _filled(module, resolved.rewrite)
    inside = unwrapped(resolved.value)
    if slot.own and unwrapped(slot.stored) is inside:
        return []
    _refuse_untraceable(resolved.patch, resolved.rewrite, inside)
    return [SlotChange.make(slot, fitted(resolved.value, slot), resolved.patch.id)]


def _make_wrap(resolved: Resolved, module: ModuleType) -> list[Change]:
    rewrite, patch = resolved.rewrite, resolved.patch
    slot = _filled(module, rewrite)
    original = unwrapped(slot.stored)
    if slot.own and marks.owner_of(original) == patch.id:
        return []
    wrapper = resolved.value(original)
    if wrapper is original or wrapper is None:
        raise RewriteError(f"{rewrite.target}: the factory {resolved.value.__qualname__} returned {wrapper!r}")
    _refuse_untraceable(patch, rewrite, wrapper)
    if type(wrapper) is FunctionType:
        _dress(wrapper, original, rewrite)
    return [SlotChange.make(slot, fitted(wrapper, slot), patch.id)]


def _make_add(resolved: Resolved, module: ModuleType) -> list[Change]:
    rewrite = resolved.rewrite
    slot = locate(module, rewrite.place)
    if slot.own:
        if unwrapped(slot.stored) is unwrapped(resolved.value):
            return []
        raise RewriteError(f"{rewrite.target} exists already: {marks.describe(slot.stored)}")
    _refuse_untraceable(resolved.patch, rewrite, unwrapped(resolved.value))
    return [SlotChange.make(slot, resolved.value, resolved.patch.id)]


_MAKERS: dict[type[Rewrite], Callable[[Resolved, ModuleType], list[Change]]] = {
    Retarget: _make_retarget,
    Register: _make_register,
    Replace: _make_replace,
    Wrap: _make_wrap,
    Add: _make_add,
}


def _filled(module: ModuleType, rewrite: Rewrite) -> Slot:
    slot = locate(module, rewrite.place)
    if slot.empty:
        raise RewriteError(f"{rewrite.target} does not exist")
    return slot


def _dress(wrapper: FunctionType, original: Any, rewrite: Rewrite) -> None:
    """Give a wrapper the original's identity, so that it pickles by reference, reads well and is called the same.

    ``__dict__`` is not copied, as functools.wraps would do: attributes there steer torch.compile to
    the function they belong to, past the wrapper.
    """
    wrapper.__module__ = rewrite.place.module
    wrapper.__qualname__ = rewrite.place.qualname
    wrapper.__name__ = rewrite.place.qualname.rpartition(".")[2]
    wrapper.__doc__ = wrapper.__doc__ or getattr(original, "__doc__", None)
    if wrapper.__code__.co_flags & _VARIADIC:
        import inspect

        with contextlib.suppress(TypeError, ValueError):  # some built-in callables have none
            wrapper.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    elif type(original) is FunctionType and _parameters(original) == _parameters(wrapper):
        if wrapper.__defaults__ is None:
            wrapper.__defaults__ = original.__defaults__
        if wrapper.__kwdefaults__ is None:
            wrapper.__kwdefaults__ = original.__kwdefaults__


def _parameters(function: FunctionType) -> tuple[int, int, tuple[str, ...]]:
    code = function.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    return code.co_argcount, code.co_kwonlyargcount, code.co_varnames[:count]


def _refuse_untraceable(patch: Patch, rewrite: Rewrite, value: Any) -> None:
    """Refuse what torch.compile would not see.

    Dynamo's test for a function is an isinstance test, to which a wrapt proxy answers yes; it then
    compiles the body behind the proxy and the patch has no effect, without a word. So the exact type counts.
    """
    if not patch.traced:
        return
    if type(value) is FunctionType:
        for cell in value.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:
                continue  # still empty
            if isinstance(content, FunctionType) and type(content) is not FunctionType:
                raise RewriteError(
                    f"{rewrite.target}: its replacement closes over a proxy ({type(content).__name__}), "
                    f"which torch.compile looks through; in traced code (patch {patch.id}) use a plain function"
                )
        return
    is_class = issubclass(type(value), type)
    if is_class or type(value) in (BuiltinFunctionType, cached_property) or not callable(value):
        return
    raise RewriteError(
        f"{rewrite.target}: its replacement is a {type(value).__module__}.{type(value).__qualname__}; "
        f"in traced code (patch {patch.id}) it must be a plain function"
    )
