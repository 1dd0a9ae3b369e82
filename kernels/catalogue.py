"""Which kernels there are, read from their sources: neither torch nor any kernel's package is imported."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ascend_patch.kernels.declaration import Kernel

FOLDER = Path(__file__).resolve().parent


class CatalogueError(ValueError):
    """A kernel's package declares nothing readable."""


@cache
def kernels() -> dict[str, Kernel]:
    """Every kernel by name, sorted.

    Raises:
        CatalogueError: a folder with a source whose package has no literal ``KERNEL = Kernel(...)``.
    """
    found = {}
    for source in sorted(FOLDER.glob("*/*.cpp")):
        if source.stem == source.parent.name:
            found[source.stem] = _declared(source.parent / "__init__.py")
    return found


def source(kernel: Kernel) -> Path:
    """The AscendC source of a kernel."""
    return FOLDER / kernel.name / f"{kernel.name}.cpp"


def source_digest(kernel: Kernel) -> str:
    """sha256 over the source and every header next to it, names included."""
    total = hashlib.sha256()
    for path in _sources(kernel):
        text = path.read_bytes()
        total.update(f"{path.name} {len(text)}\n".encode())
        total.update(text)
    return total.hexdigest()


def _sources(kernel: Kernel) -> Iterator[Path]:
    folder = source(kernel).parent
    yield from sorted([*folder.glob("*.cpp"), *folder.glob("*.h")])


class _Unstarred(ast.NodeTransformer):
    """Writes ``(*("ptr", "ptr"), *("i32",))`` as one tuple: how a long one is broken into lines."""

    def visit_Tuple(self, node: ast.Tuple) -> ast.Tuple:
        elements: list[ast.expr] = []
        for element in node.elts:
            if isinstance(element, ast.Starred) and isinstance(element.value, ast.Tuple):
                elements += self.visit_Tuple(element.value).elts
            else:
                elements.append(element)
        return ast.copy_location(ast.Tuple(elements, node.ctx), node)


def _declared(path: Path) -> Kernel:
    try:
        tree = ast.parse(path.read_text("utf-8"), str(path))
    except (OSError, SyntaxError) as error:
        raise CatalogueError(f"{path}: {error}") from None
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "KERNEL":
            call = statement.value
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Kernel" and not call.args:
                try:
                    values = {
                        word.arg or "": ast.literal_eval(_Unstarred().visit(word.value)) for word in call.keywords
                    }
                    kernel = Kernel(**values)
                except (ValueError, TypeError) as error:
                    raise CatalogueError(f"{path}:{statement.lineno}: {error}") from None
                if kernel.name != path.parent.name:
                    raise CatalogueError(f"{path}:{statement.lineno}: the kernel is called {kernel.name!r}")
                return kernel
    raise CatalogueError(f"{path}: no 'KERNEL = Kernel(name=..., ...)' with literal values")
