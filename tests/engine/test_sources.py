"""Source trees: the same answers whether the package is installed, checked out or packed."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ascend_patch.engine.contract_building import build_for
from ascend_patch.engine.errors import SourceError
from ascend_patch.engine.sources import SourceTree
from ascend_patch.engine.syntax import find_definition
from ascend_patch.engine.vocabulary import Replace, Retarget, Target

if TYPE_CHECKING:
    from conftest import Toy

KINDS = ("installed", "package folder", "checkout", "src checkout", "wheel", "sdist", "src sdist")


def make(kind: str, toy: Toy, tmp_path: Path) -> Path | None:
    """The toy package, version 1.2, in one of the forms."""
    files = [path for path in sorted(toy.folder.rglob("*.py")) if path.parts[-2] == "toy"]
    if kind == "installed":
        (toy.folder / "toy-1.2.dist-info").mkdir()
        (toy.folder / "toy-1.2.dist-info/METADATA").touch()
        return None
    if kind == "package folder":
        (toy.folder / "toy/_version.py").write_text("__version__ = version = '1.2'\n")
        return toy.folder / "toy"
    if kind.endswith("checkout"):
        root = tmp_path / "toy-v1.2"
        for file in files:
            place = root / ("src" if kind.startswith("src") else "") / "toy" / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
        if kind.startswith("src"):
            (root / "PKG-INFO").write_text("Name: toy\nVersion: 1.2\n")
        return root
    if kind == "wheel":
        place = tmp_path / "toy-1.2-py3-none-any.whl"
        with zipfile.ZipFile(place, "w") as archive:
            for file in files:
                archive.write(file, f"toy/{file.name}")
            archive.writestr(
                "toy-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.2\n\nVersion: 9\n"
            )
        return place
    place = tmp_path / "toy-1.2.tar.gz"
    prefix = "toy-1.2/src/toy" if kind.startswith("src") else "toy-1.2/toy"
    (tmp_path / "PKG-INFO").write_text("Name: toy\nVersion: 1.2\n")
    with tarfile.open(place, "w:gz") as archive:
        archive.add(tmp_path / "PKG-INFO", "toy-1.2/PKG-INFO")
        for file in files:
            archive.add(file, f"{prefix}/{file.name}")
    return place


REWRITES = (
    Replace("toy.core:greet", by="x:y"),
    Replace("toy.core:Engine.stop", by="x:y"),
    Retarget("toy.core:where", names={"cuda": "npu"}, sites=2),
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tree_gives_the_same_contracts(toy: Toy, tmp_path: Path, kind: str) -> None:
    expected = build_for(SourceTree.open(toy.folder, package="toy", version="1.2"), REWRITES, "1.2")
    assert len(expected.targets) == len(REWRITES)
    tree = SourceTree.open(make(kind, toy, tmp_path), package="toy")
    assert tree.version == "1.2"
    assert {"toy", "toy.core", "toy.consumer"} <= set(tree.modules())
    assert tree.find("toy.nothing") is None and tree.find("os") is None
    assert build_for(tree, REWRITES, "1.2") == expected
    definition = find_definition(tree, Target.parse("toy.core:greet"))
    assert definition is not None and definition.text.startswith("def greet(name") and definition.line == 5


@pytest.mark.parametrize("what", ["nothing", "empty folder", "text file", "other archive"])
def test_what_is_no_tree_gets_one_clear_line(tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "empty folder":
        place.mkdir()
    elif what == "text file":
        place.write_text("hello")
    elif what == "other archive":
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("readme", "hello")
    with pytest.raises(SourceError) as caught:
        SourceTree.open(place, package="toy")
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(SourceError, match="no_such_package is not installed"):
        SourceTree.open(package="no_such_package")


def test_an_unknown_version_is_asked_for(toy: Toy) -> None:
    tree = SourceTree.open(toy.folder, package="toy")
    with pytest.raises(SourceError, match="does not say which version"):
        tree.version  # noqa: B018
    assert SourceTree.open(toy.folder, package="toy", version="3").version == "3"
    with pytest.raises(SourceError, match="not a PEP 440 version"):
        SourceTree.open(toy.folder, package="toy", version="main").version  # noqa: B018


def test_a_file_that_cannot_be_parsed_is_named(toy: Toy) -> None:
    toy.write("toy/core.py", "def greet(:\n")
    with pytest.raises(SourceError, match=r"toy/core\.py cannot be parsed"):
        find_definition(toy.tree, Target.parse("toy.core:greet"))
