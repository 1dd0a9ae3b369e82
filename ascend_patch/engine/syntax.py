"""What a target looks like in source: found, described and hashed from the syntax tree alone."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType

from .retargeting import retarget
from .sources import SourceFile, SourceTree
from .vocabulary import Retarget, Target

FunctionNode = (ast.FunctionDef, ast.AsyncFunctionDef)
_MAX_HOPS = 8  # re-exports and base classes followed before we give up on a chain


@dataclass(frozen=True)
class Definition:
    """Where and how a target is defined.

    Attributes:
        kind: ``function``, ``method``, ``staticmethod``, ``classmethod``, ``property``, ``class``,
            ``variable`` or ``import``.
        nodes: every statement of the scope that binds the name (branches of an ``if``, the
            accessors of a property), in source order.
        owner: the class that defines it, when the target is a class attribute.
        inherited: whether `owner` is a base of the class that the target names.
    """

    kind: str
    nodes: tuple[ast.stmt, ...]
    file: SourceFile
    owner: str = ""
    inherited: bool = False

    @property
    def line(self) -> int:
        """The first line, decorators included."""
        return _first_line(self.nodes[0])

    @property
    def text(self) -> str:
        """The source text of all its statements."""
        lines = self.file.text.splitlines(keepends=True)
        parts = []
        for node in self.nodes:
            parts.append("".join(lines[_first_line(node) - 1 : node.end_lineno]))
        return "".join(parts)


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(item.lineno for item in decorators)])


def find_definition(tree: SourceTree, target: Target) -> Definition | None:
    """Resolve a target statically, through base classes and re-exported classes inside the package."""
    return _find(tree, target.module, target.qualname.split("."), _MAX_HOPS)


def find_holder(tree: SourceTree, target: Target) -> str:
    """The kind of what holds a target that is an attribute, re-exports inside the package followed; '' when it is gone.

    What is imported from elsewhere counts as the class that it has to be.
    """
    place = Target(target.module, target.qualname.rpartition(".")[0])
    for _ in range(_MAX_HOPS):
        definition = find_definition(tree, place)
        if definition is None or definition.kind != "import":
            return "" if definition is None else definition.kind
        origin = import_origin(definition.file, definition.nodes[-1], place.qualname.rpartition(".")[2])
        if origin is None or tree.find(origin.module) is None:
            break
        place = origin
    return "class"


def _find(tree: SourceTree, module: str, path: list[str], hops: int) -> Definition | None:
    file = tree.find(module)
    if file is None or hops == 0:
        return None
    nodes = bindings(file.syntax.body, path[0])
    if not nodes:
        return None
    if len(path) == 1:
        return Definition(_kind(nodes, in_class=False), nodes, file)
    if isinstance(nodes[-1], ast.ClassDef):
        return _find_in_class(tree, file, nodes[-1], path[1:], hops)
    origin = import_origin(file, nodes[-1], path[0])
    return None if origin is None else _find(tree, origin.module, [origin.qualname, *path[1:]], hops - 1)


def _find_in_class(
    tree: SourceTree, file: SourceFile, scope: ast.ClassDef, path: list[str], hops: int
) -> Definition | None:
    nodes = bindings(scope.body, path[0])
    if nodes and len(path) == 1:
        return Definition(_kind(nodes, in_class=True), nodes, file, owner=scope.name)
    if nodes and isinstance(nodes[-1], ast.ClassDef):
        return _find_in_class(tree, file, nodes[-1], path[1:], hops)
    for base in scope.bases:
        name = ast.unparse(base).split("[")[0].split(".")
        found = _find(tree, file.module, [*name, *path], hops - 1)
        if found is not None:
            return Definition(found.kind, found.nodes, found.file, found.owner, inherited=True)
    return None


def bindings(body: Iterable[ast.stmt], name: str) -> tuple[ast.stmt, ...]:
    """The statements of a scope that bind `name`, also below ``if``, ``try``, ``with`` and loops."""
    return tuple(node for node in flattened(body) if name in _bound_names(node))


def flattened(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements of one scope; functions and classes are not entered."""
    for node in body:
        yield node
        if isinstance(node, (*FunctionNode, ast.ClassDef)):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from flattened(getattr(node, part, ()))
        for handler in getattr(node, "handlers", ()):
            yield from flattened(handler.body)


def _bound_names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (*FunctionNode, ast.ClassDef)):
        if not any(dotted(item).endswith("overload") for item in node.decorator_list):
            yield node.name
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (item.id for item in ast.walk(target) if isinstance(item, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0]


def dotted(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def _kind(nodes: tuple[ast.stmt, ...], *, in_class: bool) -> str:
    node = nodes[-1]
    if isinstance(node, ast.ClassDef):
        return "class"
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return "import"
    if not isinstance(node, FunctionNode):
        return "variable"
    if not in_class:
        return "function"
    decorators = {dotted(item).rpartition(".")[2] for item in node.decorator_list}
    for special in ("staticmethod", "classmethod"):
        if special in decorators:
            return special
    if decorators & {"property", "cached_property", "setter", "deleter", "getter", "abstractproperty"}:
        return "property"
    return "method"


def import_origin(file: SourceFile, node: ast.stmt, name: str) -> Target | None:
    """Where ``from x import y`` takes `name` from, relative imports resolved."""
    if not isinstance(node, ast.ImportFrom):
        return None
    origin = imported_module(file, node)
    for alias in node.names:
        if (alias.asname or alias.name) == name:
            return Target(origin, alias.name)
    return None


def imported_module(file: SourceFile, node: ast.ImportFrom) -> str:
    """The absolute name of the module an import statement names."""
    if not node.level:
        return node.module or ""
    is_package = file.path.replace("\\", "/").endswith("/__init__.py")
    parts = file.module.split(".")
    keep = len(parts) - node.level + is_package
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def signature_of(definition: Definition) -> str:
    """Parameters with kinds and defaults, without annotations; for a class those of its bases' names; else ''."""
    node = definition.nodes[0] if definition.kind == "property" else definition.nodes[-1]
    if isinstance(node, ast.ClassDef):
        return ", ".join(ast.unparse(base) for base in node.bases)
    if not isinstance(node, FunctionNode):
        return ""
    bare = ast.parse(f"lambda {_without_annotations(node.args)}: 0", mode="eval").body
    assert isinstance(bare, ast.Lambda)
    return ast.unparse(bare.args)


def _without_annotations(arguments: ast.arguments) -> str:
    shown = ast.parse(f"def f({ast.unparse(arguments)}): ...").body[0]
    assert isinstance(shown, ast.FunctionDef)
    for argument in ast.walk(shown.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(shown.args)


def fingerprint(definition: Definition) -> str:
    """sha256 of the definition's normalised syntax: blind to layout, comments, docstrings and annotations.

    `ast.dump` changes its text between Python versions, so the tree is written out here.
    """
    digest = hashlib.sha256()
    for node in definition.nodes:
        for token in _canonical(node):
            digest.update(token.encode())
    return digest.hexdigest()


_IGNORED_FIELDS = frozenset({"ctx", "type_comment", "type_params", "kind", "annotation", "returns", "type_ignores"})


def _canonical(node: object) -> Iterator[str]:
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if name in _IGNORED_FIELDS or value is None or value == []:
                continue
            if name == "body" and isinstance(node, (*FunctionNode, ast.ClassDef)):
                value = _without_docstring(value)
            yield f" {name}="
            yield from _canonical(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _canonical(item)
        yield "]"
    else:
        yield f"{type(node).__name__}:{node!r};"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


def count_sites(definition: Definition, rewrite: Retarget) -> tuple[int, ...]:
    """How many sites a retarget would find, one number per alternative definition of the name.

    The function is compiled by itself, so the count is what it will be in memory on this Python.
    The accessors of a property belong together and give one number.
    """
    flags = _future_flags(definition.file.syntax)
    counts = [
        retarget(_code_of(node, definition.owner, flags), rewrite).sites
        for node in definition.nodes
        if isinstance(node, FunctionNode)
    ]
    return (sum(counts),) if definition.kind == "property" else tuple(counts)


def _future_flags(module: ast.Module) -> int:
    import __future__

    flags = 0
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                flags |= getattr(__future__, alias.name).compiler_flag
    return flags


def _code_of(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str, flags: int) -> CodeType:
    """Compile one function alone; inside a class of the same name, for ``super()`` and private names."""
    copy = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(copy, FunctionNode)
    copy.decorator_list = []
    copy.returns = None
    for argument in ast.walk(copy.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    module = ast.parse(f"class {owner}: ..." if owner else "")
    scope = module.body[0] if owner else module
    assert isinstance(scope, (ast.ClassDef, ast.Module))
    scope.body = [copy]
    code: CodeType = compile(ast.fix_missing_locations(module), "<target>", "exec", flags=flags, dont_inherit=True)
    for name in (owner, node.name) if owner else (node.name,):
        code = next(item for item in code.co_consts if isinstance(item, CodeType) and item.co_name == name)
    return code
