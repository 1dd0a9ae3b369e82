"""What a name in a file stands for, followed through imports and re-exports."""

from __future__ import annotations

import ast

from .sources import SourceFile, SourceTree
from .syntax import bindings, import_origin
from .vocabulary import Target

_MAX_HOPS = 8  # re-exports followed before we give up on a chain


def resolved(tree: SourceTree, file: SourceFile, name: str) -> Target:
    """The defining place of a (dotted) name used in a file."""
    for _ in range(_MAX_HOPS):
        first, _, rest = name.partition(".")
        nodes = bindings(file.syntax.body, first)
        full = _imported_as(file, nodes[-1], first, rest) if nodes else None
        if full is None:
            break
        module, name = _split(tree, full)
        next_file = tree.find(module)
        if next_file is None:
            return Target(module, name)
        file = next_file
    return Target(file.module, name)


def _imported_as(file: SourceFile, node: ast.stmt, first: str, rest: str) -> str | None:
    """What ``first.rest`` means where `node` imports ``first``: a dotted path from the top; None for a definition."""
    tail = [rest] if rest else []
    if isinstance(node, ast.Import):
        renamed = next((alias.name for alias in node.names if alias.asname == first), first)
        return ".".join([renamed, *tail])
    origin = import_origin(file, node, first)
    return None if origin is None else ".".join([origin.module, origin.qualname, *tail])


def _split(tree: SourceTree, path: str) -> tuple[str, str]:
    """A dotted path as its longest module and the rest."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        if tree.find(module) is not None:
            return module, ".".join(parts[cut:])
    return ".".join(parts[:-1]), parts[-1]
