"""Kernels: where the package launches them and with what, and which ones a function launches itself.

A kernel is an object. It is called through a subscript, ``kernel[grid](...)``, the launcher takes more than the
kernel's own parameters (``num_warps``), and some are asked for attributes. Its signature says nothing about that, so
the contract of one that is replaced lists every use. And a function that is replaced stands for the kernels that it
launched, whose code is elsewhere. All of it is told from the syntax alone.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ascend_patch.value import Value

from .errors import SourceError
from .origins import resolved
from .sources import SourceFile, SourceTree
from .syntax import Definition, FunctionNode, bindings, dotted, fingerprint, imported_module
from .vocabulary import Target

Uses = Mapping[str, tuple[str, ...]]
"""For each function (``module:qualified.name``, the module alone outside of functions) its uses as text, see `Use`."""


class Use(Value):
    """One use of an object.

    Attributes:
        grid: ``[2]`` when it is launched on a grid of two extents, ``[?]`` when the sources do not tell how many.
        attribute: ``.name`` when it is asked for an attribute.
        arguments: how many are passed by position (left out when none is), then the sorted names of the others,
            ``*`` and ``**`` for unpacked ones; None when nothing is called.
    """

    grid: str
    attribute: str
    arguments: tuple[str, ...] | None

    def __str__(self) -> str:
        called = "" if self.arguments is None else f"({', '.join(self.arguments)})"
        return f"{self.grid}{self.attribute}{called}" or _ITSELF

    @property
    def verb(self) -> str:
        """What is done with the object, as a participle."""
        if self.arguments is None or not (self.grid or self.attribute):
            return "used" if self.arguments is None else "called"
        return "launched" if self.grid else f"asked for {self.attribute}"

    @property
    def positional(self) -> int:
        """How many arguments are passed by position and not unpacked."""
        first = self.arguments[0] if self.arguments else ""
        return int(first) if first.isdigit() else 0

    @property
    def keywords(self) -> tuple[str, ...]:
        """The names of the other arguments, and ``*`` and ``**``."""
        return tuple(item for item in self.arguments or () if not item.isdigit())


_ITSELF = "itself"
_USE = re.compile(r"(?P<grid>\[.*?\])?(?P<attribute>\.\w+)?(?:\((?P<arguments>.*)\))?")


def parse_use(text: str) -> Use:
    """Read what ``str(use)`` wrote."""
    found = None if text == _ITSELF else _USE.fullmatch(text)
    if found is None:
        return Use("", "", None)
    inside = found["arguments"]
    arguments = None if inside is None else tuple(inside.split(", ")) if inside else ()
    return Use(found["grid"] or "", found["attribute"] or "", arguments)


def is_object(uses: Iterable[str]) -> bool:
    """Whether the uses show more than a function that is called or handed on, which its signature describes."""
    return any(use.grid or use.attribute for use in map(parse_use, uses))


def modules_of(sites: Iterable[str]) -> set[str]:
    """The modules that sites of uses are in."""
    return {site.partition(":")[0] for site in sites}


def uses_in(tree: SourceTree, modules: Iterable[str], place: Target) -> Uses:
    """Every use of a module-level target in these modules; one that cannot be had or parsed has none."""
    found: dict[str, tuple[str, ...]] = {}
    for module in modules:
        file = tree.find(module)
        try:
            names = _names_of(tree, file, place) if file is not None else frozenset()
        except SourceError:  # syntax of a newer Python
            continue
        if file is not None and names:
            visitor = _Uses(module, names, place.qualname)
            visitor.visit(file.syntax)
            found.update({site: tuple(map(str, uses)) for site, uses in visitor.found.items()})
    return found


def _names_of(tree: SourceTree, file: SourceFile, place: Target) -> frozenset[str]:
    """The (dotted) names by which a file may speak of the target, also those that it imports inside a function."""
    if file.module == place.module:
        return frozenset({place.qualname})
    names = set[str]()
    for node in ast.walk(file.syntax):
        if isinstance(node, ast.Import):
            found = (alias.asname or alias.name for alias in node.names if alias.name == place.module)
            names.update(f"{name}.{place.qualname}" for name in found)
        elif isinstance(node, ast.ImportFrom):
            origin = imported_module(file, node)
            for alias in node.names:
                local = alias.asname or alias.name
                if f"{origin}.{alias.name}" == place.module:
                    names.add(f"{local}.{place.qualname}")
                elif alias.name == place.qualname and (
                    origin == place.module or _reexported(tree, origin, alias.name) == place
                ):
                    names.add(local)
    return frozenset(names)


def _reexported(tree: SourceTree, module: str, name: str) -> Target | None:
    file = tree.find(module)
    return None if file is None else resolved(tree, file, name)


class _Uses(ast.NodeVisitor):
    """Collects the uses of an object that a file knows by some names."""

    def __init__(self, module: str, names: frozenset[str], last: str) -> None:
        self.found: dict[str, list[Use]] = {}
        self._module = module
        self._names = names
        self._last = last
        self._scope: list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef] = []

    def _enter(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self._scope.append(node)
        self.generic_visit(node)
        self._scope.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _enter

    def visit_Call(self, node: ast.Call) -> None:
        if self._is_it(node.func):
            self._add("", "", _arguments(node))
        elif isinstance(node.func, ast.Subscript) and self._is_it(node.func.value):
            self._add(self._grid(node.func), "", _arguments(node))
            self.visit(node.func.slice)
        elif isinstance(node.func, ast.Attribute) and self._is_it(node.func.value):
            self._add("", f".{node.func.attr}", _arguments(node))
        else:
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self._is_it(node.value):
            self._add(self._grid(node), "", None)
            self.visit(node.slice)
        else:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._is_it(node):
            self._add("", "", None)
        elif self._is_it(node.value):
            self._add("", f".{node.attr}", None)
        else:
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if self._is_it(node):
            self._add("", "", None)

    def _is_it(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self._names and isinstance(node.ctx, ast.Load)
        return isinstance(node, ast.Attribute) and node.attr == self._last and dotted(node) in self._names

    def _add(self, grid: str, attribute: str, arguments: tuple[str, ...] | None) -> None:
        path = ".".join(item.name for item in self._scope)
        site = f"{self._module}:{path}" if path else self._module
        self.found.setdefault(site, []).append(Use(grid, attribute, arguments))

    def _grid(self, node: ast.Subscript) -> str:
        extents = _extents(node.slice)
        if isinstance(node.slice, ast.Name) and self._scope:
            given = {_extents(value) for value in _assigned(self._scope[-1], node.slice.id)}
            extents = given.pop() if len(given) == 1 else 0
        return f"[{extents or '?'}]"


def _arguments(node: ast.Call) -> tuple[str, ...]:
    starred = sum(isinstance(item, ast.Starred) for item in node.args)
    positional = len(node.args) - starred
    names = ["*"] * starred + ["**" if item.arg is None else item.arg for item in node.keywords]
    return (*([str(positional)] if positional else []), *sorted(names))


def _extents(node: ast.expr) -> int:
    """How many extents a grid has, 0 when that cannot be told."""
    if isinstance(node, ast.Lambda):
        return _extents(node.body)
    if not isinstance(node, ast.Tuple) or any(isinstance(item, ast.Starred) for item in node.elts):
        return 0
    return len(node.elts)


def _assigned(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    """What a scope assigns to a name."""
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == name:
                    yield node.value


def use_changes(old: Uses, new: Uses) -> list[str]:
    """In words what is used otherwise, the function named."""
    lost = {site: gone for site, uses in old.items() if (gone := Counter(uses) - Counter(new.get(site, ())))}
    more = {site: come for site, uses in new.items() if (come := Counter(uses) - Counter(old.get(site, ())))}
    found = []
    for site in [site for site in lost if site in more]:
        if lost[site].total() == more[site].total() == 1:
            before, after = parse_use(*lost.pop(site)), parse_use(*more.pop(site))
            found.append(f"{site}: {', '.join(_difference(before, after))}")
    for site, text in [(site, text) for site, texts in lost.items() for text in texts.elements()]:
        verb = parse_use(text).verb
        there = next((other for other, texts in more.items() if texts[text] > 0), None)
        if there is None:
            found.append(f"no longer {verb} in {site} as {text}")
        else:
            more[there][text] -= 1
            found.append(f"{verb} in {there} and no longer in {site}")
    for site, texts in more.items():
        found += [f"now also {parse_use(text).verb} in {site} as {text}" for text in texts.elements()]
    return found


def _difference(old: Use, new: Use) -> Iterator[str]:
    if old.verb != new.verb:
        yield f"{new.verb} as {new}, before {old.verb} as {old}"
        return
    if old.grid != new.grid:
        yield f"launched on a grid of {new.grid[1:-1]} dimensions instead of {old.grid[1:-1]}"
    if old.positional != new.positional:
        yield f"{new.verb} with {new.positional} positional arguments instead of {old.positional}"
    for name in sorted({*old.keywords, *new.keywords}):
        difference = new.keywords.count(name) - old.keywords.count(name)
        if difference:
            what = f"unpacked {name}" if name.startswith("*") else f"keyword '{name}'"
            yield f"{what} {'added' if difference > 0 else 'removed'}"


# -- the kernels that a function launches ----------------------------------------------------------

_KERNEL_DECORATOR = "jit"


class Kernel(Value):
    """A kernel that a definition stands for."""

    file: SourceFile
    definition: Definition

    @property
    def syntax(self) -> str:
        """Half of the sha256 of its normalised syntax, without decorators, which tune it."""
        nodes = tuple(map(_undecorated, self.definition.nodes))
        return fingerprint(Definition("function", nodes, self.file))[:32]


def _undecorated(node: ast.stmt) -> ast.stmt:
    plain = copy.copy(node)
    plain.decorator_list = []  # type: ignore[attr-defined]
    return plain


def kernels_of(tree: SourceTree, definition: Definition) -> Mapping[str, Kernel]:
    """The kernels that a function launches, by name, and those that these call in turn.

    Found are those that it launches on a grid, and those of launchers: functions that a decorator hands a kernel to,
    objects of a class that has one. Other functions that it calls are not followed.
    """
    found: dict[str, Kernel] = {}
    waiting = [(definition.file, node) for node in definition.nodes]
    while waiting:
        file, node = waiting.pop()
        for name, kernel in _launched_by(tree, file, node):
            if name not in found and kernel.definition.nodes != definition.nodes:
                found[name] = kernel
                waiting += [(kernel.file, item) for item in kernel.definition.nodes]
    return found


def _launched_by(tree: SourceTree, file: SourceFile, node: ast.stmt) -> Iterator[tuple[str, Kernel]]:
    calls = [item.func for item in ast.walk(node) if isinstance(item, ast.Call)]
    called = {item.id for item in calls if isinstance(item, ast.Name)}
    names = {item.value.id for item in calls if isinstance(item, ast.Subscript) and isinstance(item.value, ast.Name)}
    names |= _named_by_decorators(node)
    if _is_kernel(node):
        names |= called
    for name in sorted(called):
        for launcher in bindings(file.syntax.body, name):
            names |= _named_by_decorators(launcher)
            yield from _kernels_of_its_class(file, launcher)
    for name in sorted(names):
        kernel = _kernel(tree, file, name)
        if kernel is not None:
            yield name, kernel


def _named_by_decorators(node: ast.AST) -> set[str]:
    decorators = getattr(node, "decorator_list", [])
    return {item.id for one in decorators for item in ast.walk(one) if isinstance(item, ast.Name)}


def _kernels_of_its_class(file: SourceFile, node: ast.stmt) -> Iterator[tuple[str, Kernel]]:
    """Those in the class of which an assignment makes an instance."""
    value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name):
        return
    for scope in bindings(file.syntax.body, value.func.id):
        if isinstance(scope, ast.ClassDef):
            for item in filter(_is_kernel, scope.body):
                assert isinstance(item, FunctionNode)
                yield f"{scope.name}.{item.name}", Kernel(file, Definition("method", (item,), file, scope.name))


def _kernel(tree: SourceTree, file: SourceFile, name: str) -> Kernel | None:
    nodes = bindings(file.syntax.body, name)
    if nodes and isinstance(nodes[-1], ast.ImportFrom):
        origin = resolved(tree, file, name)
        there = tree.find(origin.module)
        if there is None:
            return None
        try:
            file, nodes = there, bindings(there.syntax.body, origin.qualname)
        except SourceError:  # syntax of a newer Python
            return None
    kernels = tuple(filter(_is_kernel, nodes))
    return Kernel(file, Definition("function", kernels, file)) if kernels else None


def _is_kernel(node: ast.AST) -> bool:
    decorators = node.decorator_list if isinstance(node, FunctionNode) else []
    return any(dotted(item).rpartition(".")[2] == _KERNEL_DECORATOR for item in decorators)


def kernel_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """In words which of the kernels, by name and syntax, are others."""
    found = [f"kernel {name} that it launches changed" for name in old if name in new and old[name] != new[name]]
    found += [f"it no longer launches {name}" for name in old if name not in new]
    found += [f"it now launches {name}" for name in new if name not in old]
    return found
