"""Sources of released versions: what is taken from the index, kept, and refused."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from ascend_patch.cli import releases
from ascend_patch.cli.errors import Refusal
from ascend_patch.engine.sources import SourceTree

from .index import Index, serve

SOURCES = {"gadget/__init__.py": "", "gadget/core.py": "x = 1\n"}


@pytest.fixture
def environ(index: Index, tmp_path: Path) -> dict[str, str]:
    """The environment of a command, with an empty cache folder."""
    return {"PIP_INDEX_URL": index.url, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}


def kept(environ: dict[str, str]) -> list[str]:
    folder = Path(environ["XDG_CACHE_HOME"])
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_versions_are_sorted_and_withdrawn_ones_left_out(index: Index, environ: dict[str, str]) -> None:
    for version in ("1.10.0", "1.9.0", "1.11.0rc1"):
        index.sdist(version, SOURCES)
    index.sdist("1.9.1", SOURCES, yanked=True)
    index.wheel("0.9.0", SOURCES)
    index.files["gadget_extra-3.0.tar.gz"] = index.files["gadget-1.9.0.tar.gz"]
    index.files["gadget-soon.tar.gz"] = index.files["gadget-1.9.0.tar.gz"]
    assert list(releases.released("gadget", environ)) == ["0.9.0", "1.9.0", "1.10.0", "1.11.0rc1"]


def test_of_an_sdist_the_python_files_are_kept(index: Index, environ: dict[str, str]) -> None:
    index.sdist("1.5.0", {**SOURCES, "setup.py": "boom", "gadget/data.bin": "x" * 100, "tests/gadget/test.py": "no"})
    told: list[str] = []
    path = releases.source("gadget", "1.5.0", environ, announce=told.append)
    assert told == ["downloading the sources of gadget 1.5.0"]
    assert set(zipfile.ZipFile(path).namelist()) == {*SOURCES, "sources.dist-info/METADATA"}
    tree = SourceTree.open(path, package="gadget")
    found = tree.find("gadget.core")
    assert tree.version == "1.5.0" and found is not None and found.text == "x = 1\n"
    assert kept(environ) == ["gadget-1.5.0.zip"]


def test_an_sdist_that_brings_its_egg_info(index: Index, environ: dict[str, str]) -> None:
    index.sdist("1.5.0", {**SOURCES, "gadget.egg-info/PKG-INFO": "Version: 9\n"})
    path = releases.source("gadget", "1.5.0", environ)
    assert sorted(zipfile.ZipFile(path).namelist()) == sorted([*SOURCES, "sources.dist-info/METADATA"])
    assert SourceTree.open(path, package="gadget").version == "1.5.0"


def test_what_is_in_the_cache_is_not_asked_for_again(index: Index, environ: dict[str, str]) -> None:
    index.sdist("1.5.0", SOURCES)
    first = releases.source("gadget", "1.5.0", environ)
    index.asked.clear()
    assert releases.source("gadget", "1.5.0", environ) == first
    assert index.asked == []
    assert releases.cached("gadget", environ) == {"1.5.0": first}


@pytest.mark.parametrize("text", ["1.5", "v1.5.0", "1.5.0.0"])
def test_a_version_may_be_written_in_another_way(index: Index, environ: dict[str, str], text: str) -> None:
    index.sdist("1.5.0", SOURCES)
    path = releases.source("gadget", text, environ)
    assert kept(environ) == ["gadget-1.5.0.zip"]
    index.asked.clear()
    assert releases.source("gadget", text, environ) == path and index.asked == []


def test_an_sdist_with_a_src_folder(index: Index, environ: dict[str, str]) -> None:
    index.sdist("1.5.0", {f"src/{name}": text for name, text in SOURCES.items()})
    path = releases.source("gadget", "1.5.0", environ)
    assert SourceTree.open(path, package="gadget").find("gadget.core") is not None


def test_of_a_wheel_only_the_python_parts_are_transferred(index: Index, environ: dict[str, str]) -> None:
    binary = {"gadget/kernels.so": os.urandom(8 << 20)}
    index.wheel("1.5.0", {"gadget/__init__.py": "", **binary, "gadget/core.py": "x = 1\n"})
    path = releases.source("gadget", "1.5.0", environ)
    assert SourceTree.open(path, package="gadget").version == "1.5.0"
    assert set(zipfile.ZipFile(path).namelist()) == {*SOURCES, "sources.dist-info/METADATA"}
    assert any("bytes=" in line for line in index.asked)
    assert index.sent < 5 << 20, "the binary was transferred"


def test_the_sdist_is_preferred(index: Index, environ: dict[str, str]) -> None:
    index.wheel("1.5.0", SOURCES)
    index.sdist("1.5.0", SOURCES)
    index.wheel("1.6.0", SOURCES)
    found = releases.released("gadget", environ)
    assert {version: item.is_wheel for version, item in found.items()} == {"1.5.0": False, "1.6.0": True}


def test_a_wrong_hash_is_refused_and_nothing_kept(index: Index, environ: dict[str, str]) -> None:
    index.sdist("1.5.0", SOURCES, sha256="0" * 64)
    with pytest.raises(Refusal, match="does not have the hash that the index names"):
        releases.source("gadget", "1.5.0", environ)
    assert kept(environ) == []


def test_an_index_without_json_is_refused(index: Index, environ: dict[str, str]) -> None:
    index.speaks_json = False
    with pytest.raises(Refusal, match=r"does not answer in JSON \(PEP 691\): set PIP_INDEX_URL"):
        releases.released("gadget", environ)


def test_an_unreachable_index_is_one_line(environ: dict[str, str]) -> None:
    with serve("gadget") as gone:
        environ["PIP_INDEX_URL"] = gone.url  # nobody listens there after the block
    with pytest.raises(Refusal, match=r"cannot read http://127\.0\.0\.1:.*set PIP_INDEX_URL"):
        releases.released("gadget", environ)


def test_a_name_and_password_in_the_address_are_sent_and_not_shown(index: Index, environ: dict[str, str]) -> None:
    environ["PIP_INDEX_URL"] = index.url.replace("http://", "http://me:se%3Acret@")
    index.sdist("1.5.0", SOURCES)
    assert list(releases.released("gadget", environ)) == ["1.5.0"]
    assert index.authorized == ["Basic bWU6c2U6Y3JldA=="]  # base64 of me:se:cret, as RFC 7617 has it
    index.speaks_json = False
    with pytest.raises(Refusal) as caught:
        releases.released("gadget", environ)
    assert "cret" not in str(caught.value)


def test_a_server_that_sends_no_parts_is_refused(index: Index, environ: dict[str, str]) -> None:
    index.wheel("1.5.0", {**SOURCES, "gadget/kernels.so": os.urandom(2 << 20)})
    index.sends_parts = False
    with pytest.raises(Refusal, match="does not send parts of files"):
        releases.source("gadget", "1.5.0", environ)
    assert kept(environ) == []


def test_a_version_that_does_not_exist_names_the_newest(index: Index, environ: dict[str, str]) -> None:
    index.sdist("1.5.0", SOURCES)
    with pytest.raises(Refusal, match=r"gadget 2\.0 is not on the package index: the newest version there is 1\.5\.0"):
        releases.source("gadget", "2.0", environ)


def test_the_cache_knows_what_it_holds(environ: dict[str, str]) -> None:
    folder = releases.cache_folder(environ)
    assert releases.cached("gadget", environ) == {}
    folder.mkdir(parents=True)
    for name in ("gadget-1.10.0.zip", "gadget-1.9.0.zip", "gadget-soon.zip", "other-1.0.zip", "gadget-1.0.tar.gz"):
        (folder / name).touch()
    assert list(releases.cached("gadget", environ)) == ["1.9.0", "1.10.0"]
    assert releases.cache_folder({"HOME": "/nowhere"}) == Path("/nowhere/.cache/ascend_patch/sources")
