"""The difference between two signatures, in words."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def changes(old: str, new: str) -> list[str]:
    """What changed from one parameter list to another, e.g. ``["parameter 'x' added"]``; empty when nothing did.

    Both are texts like ``"self, x, *, y=1"``, as `syntax.signature_of` gives them.
    """
    if old == new:
        return []
    before, after = dict(_parameters(old)), dict(_parameters(new))
    found = [f"parameter '{name}' removed" for name in before if name not in after]
    found += [f"parameter '{name}' added" for name in after if name not in before]
    for name in [name for name in before if name in after]:
        (old_kind, old_default), (new_kind, new_default) = before[name], after[name]
        if old_kind != new_kind:
            found.append(f"parameter '{name}' became {new_kind}")
        if old_default != new_default:
            found.append(f"default of '{name}' changed from {old_default or 'none'} to {new_default or 'none'}")
    if not found:
        found.append("parameters reordered")
    return found


def _parameters(signature: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each parameter with its kind and the text of its default ('' without)."""
    try:
        arguments = ast.parse(f"lambda {signature}: 0", mode="eval").body
    except SyntaxError:  # bases of a class, which are no parameter list
        for name in signature.split(", "):
            yield name, ("base", "")
        return
    assert isinstance(arguments, ast.Lambda)
    spec = arguments.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    for index, (item, default) in enumerate(zip(positional, defaults, strict=True)):
        kind = "positional-only" if index < len(spec.posonlyargs) else "positional"
        yield item.arg, (kind, _text(default))
    if spec.vararg:
        yield f"*{spec.vararg.arg}", ("variadic", "")
    for item, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
        yield item.arg, ("keyword-only", _text(default))
    if spec.kwarg:
        yield f"**{spec.kwarg.arg}", ("variadic", "")


def _text(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)
