"""Upstream's code and what will be in its place, as text; found in the sources, nothing is imported.

For each kind of rewrite the new text shows what a caller will get:
retarget: upstream's text with the names renamed; replace: our function; wrap: our
factory in front of the function that it keeps; register and add: the new entry.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ascend_patch.engine.sources import SourceFile, SourceTree
from ascend_patch.engine.syntax import Definition, FunctionNode, bindings, find_definition
from ascend_patch.engine.vocabulary import Add, Patch, Register, Replace, Retarget, Rewrite, Wrap


@dataclass(frozen=True)
class Comparison:
    """One rewrite as two texts.

    Attributes:
        rewrite: what it is about.
        upstream: text of the target in the tree, "" when it has none.
        upstream_at: ``file:line``, "" when the target was not found.
        ours: what a caller will get.
        ours_at: ``module:name`` of our function, or a word about the entry.
        note: what the two texts alone do not say.
    """

    rewrite: Rewrite
    upstream: str
    upstream_at: str
    ours: str
    ours_at: str
    note: str = ""

    def unified(self, context: int) -> str:
        """A unified diff of the two, with `context` unchanged lines around each change."""
        lines = difflib.unified_diff(
            self.upstream.splitlines(),
            self.ours.splitlines(),
            fromfile=self.upstream_at or "/dev/null",
            tofile=self.ours_at,
            lineterm="",
            n=context,
        )
        return "\n".join(lines)


def compare(tree: SourceTree, patch: Patch, rewrite: Rewrite) -> Comparison:
    """Put a rewrite's target in `tree` beside what will be there."""
    definition = find_definition(tree, rewrite.place)
    upstream = _text_of_nodes(definition.nodes, definition.file.text) if definition is not None else ""
    at = f"{tree.relative(definition.file)}:{definition.line}" if definition is not None else ""
    note = "" if definition is not None or isinstance(rewrite, Add) else "the target does not exist in this version"
    match rewrite:
        case Retarget():
            ours = retargeted(definition, rewrite) if definition is not None else ""
            return Comparison(rewrite, upstream, at, ours, f"{rewrite.target} (retargeted)", note)
        case Replace():
            return Comparison(rewrite, upstream, at, *_ours(patch, rewrite.by), note)
        case Wrap():
            factory, place = _ours(patch, rewrite.by)
            kept = f"{factory}\n\n\n{upstream}" if upstream else factory
            return Comparison(rewrite, upstream, at, kept, f"{place} (wraps it)", note or "the original is kept")
        case Register():
            return Comparison(rewrite, upstream, at, *_entry(patch, rewrite, upstream), note)
        case Add():
            text, place = _ours(patch, rewrite.by)
            if definition is not None:
                note = (
                    "hides the inherited one" if definition.inherited else "upstream has it now, so this is not applied"
                )
            return Comparison(rewrite, upstream, at, text, place, note)
    raise TypeError(f"unknown kind of rewrite {rewrite.kind!r}")


def retargeted(definition: Definition, rewrite: Retarget) -> str:
    """The text of a function with the names and strings of `rewrite` exchanged, everything else as it was.

    The engine renames in code objects. The same places in the text are global
    and attribute names (not local variables, not annotations of them, not after
    one of `never_after`) and whole string constants.
    """
    data = definition.file.text.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    edits: set[Edit] = set()
    for function in definition.nodes:
        if isinstance(function, FunctionNode):
            local = _local_names(function)
            for statement in function.body:
                for node in _executed(statement):
                    edits.update(_edits_at(node, rewrite, local, starts, data))
    for edit in sorted(edits, reverse=True):
        data = data[: edit.start] + edit.text.encode() + data[edit.end :]
    return _text_of_nodes(definition.nodes, data.decode())


class Edit(NamedTuple):
    """Bytes of a file to exchange."""

    start: int
    end: int
    text: str


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it that leave a trace in bytecode: annotations in functions do not."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _executed(child)


def _edits_at(node: ast.AST, rewrite: Retarget, local: set[str], starts: list[int], data: bytes) -> Iterator[Edit]:
    if isinstance(node, ast.expr) and node.end_lineno is not None and node.end_col_offset is not None:
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
    else:
        return
    if isinstance(node, ast.Attribute) and node.attr in rewrite.names:
        if _last_name(node.value) not in rewrite.never_after:
            yield Edit(last - len(node.attr.encode()), last, rewrite.names[node.attr])
    elif isinstance(node, ast.Name) and node.id in rewrite.names and node.id not in local:
        yield Edit(first, last, rewrite.names[node.id])
    elif isinstance(node, ast.JoinedStr):
        yield from _edits_in_fstring(node, rewrite, first, data[first:last])
    elif (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value in rewrite.strings
        # Parts of an f-string, done above: they have no quotes of their own, or claim the place of the whole.
        and data[first:last].lstrip(b"rRuU")[:1] in (b"'", b'"')
    ):
        yield Edit(first, last, _quoted(rewrite.strings[node.value]))


def _edits_in_fstring(node: ast.JoinedStr, rewrite: Retarget, first: int, text: bytes) -> Iterator[Edit]:
    """The literal parts of an f-string that are exchanged as a whole; their places are found in its text."""
    for part in node.values:
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value in rewrite.strings:
            found = re.search(rb"(?<=[\"'}])" + re.escape(part.value.encode()) + rb"(?=[{\"'])", text)
            if found:
                yield Edit(first + found.start(), first + found.end(), rewrite.strings[part.value])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _local_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    arguments = {item.arg for item in ast.walk(function) if isinstance(item, ast.arg)}
    stored = {item.id for item in ast.walk(function) if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)}
    shared = {name for item in ast.walk(function) if isinstance(item, ast.Global) for name in item.names}
    return (arguments | stored) - shared


def _ours(patch: Patch, reference: str) -> tuple[str, str]:
    """Text and ``module:name`` of what a reference names."""
    module, _, name = reference.partition(":")
    module = module or patch.module
    return _text_of(module, name) or f"# the source of {module}:{name} was not found", f"{module}:{name}"


def _entry(patch: Patch, rewrite: Register, upstream: str) -> tuple[str, str]:
    """The mapping with our entry, and our object below it when there is a text for it."""
    name = rewrite.place.qualname
    key = _ours(patch, rewrite.key)[1] if rewrite.key_by_reference else repr(rewrite.key)
    if rewrite.literal:
        return f"{upstream}\n{name}[{key}] = {rewrite.value!r}".lstrip(), f"{name}[{key}]"
    text, place = _ours(patch, rewrite.value)
    entry = f"{name}[{key}] = {place.partition(':')[2]}"
    return f"{upstream}\n{entry}\n\n\n{text}".lstrip(), place


def _text_of(module: str, qualname: str) -> str:
    """Source text of a definition in an importable module, without importing that module; "" if it has none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    file = SourceFile(module, spec.origin, Path(spec.origin).read_bytes())
    body = file.syntax.body
    nodes: tuple[ast.stmt, ...] = ()
    for part in qualname.split("."):
        nodes = bindings(body, part)
        if not nodes:
            return ""
        last = nodes[-1]
        body = last.body if isinstance(last, ast.ClassDef) else []
    return _text_of_nodes(nodes, file.text)


def _text_of_nodes(nodes: tuple[ast.stmt, ...], text: str) -> str:
    """The lines of some statements, decorators included, each moved to the left margin."""
    lines = text.splitlines()
    kept = []
    for node in nodes:
        first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])
        indent = " " * node.col_offset
        # Not textwrap.dedent: a line of a string may begin further left than the code around it.
        kept += [line.removeprefix(indent) for line in lines[first - 1 : node.end_lineno]]
    return "\n".join(kept)
