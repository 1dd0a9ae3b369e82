"""Copies of the installed vLLM in which upstream changed something, without importing or touching the installed one."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ascend_patch.activation import contracts_folder
from ascend_patch.engine import registry
from ascend_patch.engine.contract_building import variant_for
from ascend_patch.engine.contracts import ContractStore
from ascend_patch.engine.plan import Plan
from ascend_patch.engine.planning import make_plan
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.sources import SourceTree

VERSION = version("vllm")


@cache
def patches() -> Registry:
    return registry.load()


def plan_of(tree: SourceTree) -> Plan:
    """What is decided for these sources, without importing them."""
    return make_plan(patches(), tree, ContractStore(contracts_folder()))


@cache
def needed() -> frozenset[str]:
    """The patches that the installed version gets."""
    return frozenset(item.patch.id for item in plan_of(SourceTree.open(installed(), package="vllm")).accepted)


@cache
def offered() -> frozenset[str]:
    """The patches that the installed version can get, those included that are off by default."""
    variants = {patch.id: variant_for(patch.variants, VERSION) for patch in patches()}
    return frozenset(id for id, variant in variants.items() if variant is not None and not variant.unneeded)


@cache
def installed() -> Path:
    """The folder of the installed package."""
    spec = find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


class Copy:
    """`folder/vllm`: links into the installed package, and real files where something is changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _make_real(folder / "vllm", installed())

    def file(self, module: str) -> Path:
        """Where a module is, or is to be; the folders on the way there are real ones afterwards."""
        *packages, name = module.split(".")
        folder = self.folder
        for package in packages:
            folder = folder / package
            if folder.is_symlink():
                original = folder.readlink()
                folder.unlink()
                _make_real(folder, original)
        stem = folder / name
        return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")

    def write(self, module: str, text: str) -> None:
        """Give a module this source."""
        file = self.file(module)
        file.unlink(missing_ok=True)  # never through the link
        file.write_text(text, "utf-8")

    def append(self, module: str, text: str) -> None:
        """Put definitions behind a module's own."""
        self.write(module, f"{self.file(module).read_text('utf-8')}\n\n{text}")

    def move(self, module: str, to: str) -> None:
        """Give a module another name."""
        self.file(module).rename(self.file(to))

    def is_version(self, text: str) -> None:
        """Let the metadata beside the package name another version."""
        metadata = self.folder / f"vllm-{text}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {text}\n", "utf-8")

    def edit(self, target: str, change: Callable[[list[ast.stmt], int], None]) -> None:
        """Change the definition of ``module:qualified.name``: `change` gets the statements around it and its index."""
        module, _, qualname = target.partition(":")
        tree = ast.parse(self.file(module).read_text("utf-8"))
        scope: Any = tree
        *outer, last = qualname.split(".")
        for name in outer:
            scope = scope.body[_index(scope.body, name)]
        change(scope.body, _index(scope.body, last))
        self.write(module, ast.unparse(ast.fix_missing_locations(tree)))


def _make_real(folder: Path, original: Path) -> None:
    """A folder with a link to each entry of `original`, but to nothing that a process might write to."""
    folder.mkdir()
    for entry in original.iterdir():
        if entry.name != "__pycache__":
            (folder / entry.name).symlink_to(entry)


def _index(body: list[ast.stmt], name: str) -> int:
    return next(index for index, node in enumerate(body) if getattr(node, "name", None) == name)


# -- changes for `Copy.edit` -----------------------------------------------------------------------


def gone(body: list[ast.stmt], index: int) -> None:
    del body[index]
    body.append(ast.Pass())


def renamed(body: list[ast.stmt], index: int) -> None:
    node: Any = body[index]
    node.name = f"{node.name}_by_another_name"


def more_parameters(body: list[ast.stmt], index: int) -> None:
    node: Any = body[index]
    node.args.kwonlyargs.append(ast.arg("changed_upstream"))
    node.args.kw_defaults.append(ast.Constant(None))


def more_statements(*statements: str) -> Callable[[list[ast.stmt], int], None]:
    def change(body: list[ast.stmt], index: int) -> None:
        node: Any = body[index]
        node.body[:0] = ast.parse("\n".join(statements)).body

    return change


def respelled(old: str, new: str) -> Callable[[list[ast.stmt], int], None]:
    def change(body: list[ast.stmt], index: int) -> None:
        text = ast.unparse(body[index])
        assert old in text
        body[index : index + 1] = ast.parse(text.replace(old, new)).body

    return change


def more_methods(text: str) -> Callable[[list[ast.stmt], int], None]:
    def change(body: list[ast.stmt], index: int) -> None:
        node: Any = body[index]
        node.body += ast.parse(text).body

    return change


def launched_otherwise(kernel: str, change: Callable[[ast.Call], None]) -> Callable[[list[ast.stmt], int], None]:
    """Change every ``kernel[grid](...)`` and ``kernel(...)`` in a function."""

    def make(body: list[ast.stmt], index: int) -> None:
        calls = [node for node in ast.walk(body[index]) if isinstance(node, ast.Call)]
        found = [node for node in calls if ast.unparse(getattr(node.func, "value", node.func)) == kernel]
        assert found, f"{kernel} is not launched there"
        for call in found:
            change(call)

    return make


def one_more_argument(call: ast.Call) -> None:
    call.args.append(ast.Constant(None))


def keyword_renamed(old: str, new: str) -> Callable[[ast.Call], None]:
    def change(call: ast.Call) -> None:
        (keyword,) = [item for item in call.keywords if item.arg == old]
        keyword.arg = new

    return change


def split(body: list[ast.stmt], index: int) -> None:
    """What a function does is done by another one, which it calls."""
    node: Any = body[index]
    outer = f"def {node.name}(*args, **kwargs):\n    return {node.name}_inside(*args, **kwargs)"
    node.name = f"{node.name}_inside"
    body[index + 1 : index + 1] = ast.parse(outer).body


other_body = more_statements("changed_upstream = True")


def remove(folder: Path) -> None:
    """Delete a copy; the links, not what they lead to."""
    shutil.rmtree(folder)
