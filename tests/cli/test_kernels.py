"""`kernels`: list, build and check, without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ascend_patch.cli.app import app
from ascend_patch.kernels import catalogue
from ascend_patch.kernels.building import host
from ascend_patch.kernels.loading import search

from .conftest import Result

DECLARATION = """
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="{name}", why="Tests.", replaces=3, entries=("{name}_half", "{name}_float"), parameters=(*("ptr",), "i32"),
)
"""
ENTRY_H = "#pragma once\n#define ASCENDC_HOST_ENTRY(f)\n"


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two kernels that compile at once, an empty cache and no CANN."""
    folder = tmp_path / "kernels"
    for name in ("first", "second"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(DECLARATION.format(name=name))
        (folder / name / f"{name}.cpp").write_text("int unused;\n")
    (folder / "host").mkdir()
    (folder / "host" / "entry.h").write_text(ENTRY_H)
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    monkeypatch.setattr(host, "HEADERS", folder / "host")
    monkeypatch.setattr(search, "PREBUILT", folder / "prebuilt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "no cann"))
    monkeypatch.delenv(search.PATH, raising=False)
    catalogue.kernels.cache_clear()
    yield folder
    catalogue.kernels.cache_clear()


def command(*args: str) -> Result:
    done = CliRunner().invoke(app, ["kernels", *args], prog_name="ascend-patch")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def test_list_shows_every_kernel(kernels: Path) -> None:
    result = command("list")
    assert result.code == 0
    assert [line.split()[:4] for line in result.out.splitlines()[1:]] == [
        ["first", "2", "3", "-"],
        ["second", "2", "3", "-"],
    ]
    rows = command("list", "--json").json
    assert rows["abi"] == 1
    first = rows["kernels"][0]
    assert first["entries"] == ["first_half", "first_float"] and first["built"] == []
    assert first["parameters"] == ["ptr", "i32"]


def test_build_for_the_host_then_check(kernels: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = command("build", "--host", "--output", str(out), "--json")
    assert result.code == 0, result.err
    folder = out / host.host_target().name
    assert [item["kernel"] for item in result.json["built"]] == ["first", "second"]
    assert {item["folder"] for item in result.json["built"]} == {str(folder)}
    assert "compiling first, second with" in result.err
    checked = command("check", str(out), "--json")
    assert checked.code == 0 and checked.json["ok"]
    assert [(item["kernel"], item["problem"]) for item in checked.json["files"]] == [("first", ""), ("second", "")]

    library = folder / "second.so"
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 0xFF
    library.write_bytes(content)
    checked = command("check", str(out))
    assert checked.code == 1
    bad = next(line for line in checked.out.splitlines() if " second " in line)
    assert bad.startswith("error") and "sha256" in bad


def test_build_for_the_host_fills_the_cache_once(kernels: Path, tmp_path: Path) -> None:
    first = command("build", "--host", "first")
    assert first.code == 0 and "compiling first with" in first.err
    again = command("build", "--host", "first")
    assert again.code == 0 and again.out == first.out and again.err == ""
    assert (tmp_path / "cache" / "ascend_patch" / "kernels") in Path(first.out.split(":")[0]).parents


def test_a_compilation_that_fails_is_a_finding_in_one_line(kernels: Path) -> None:
    (kernels / "first" / "first.cpp").write_text("int broken = nothing_called_so;\n")
    result = command("build", "--host", "first")
    assert result.code == 1
    assert "nothing_called_so" in result.err.splitlines()[-1] and result.err.splitlines()[-1].startswith(
        "ascend-patch: "
    )


def test_without_a_compiler_nothing_is_built(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no compiler for the NPU" in command("build", "--npu").refused()
    assert not (kernels / "prebuilt").exists()
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert "no C++ compiler" in command("build", "--host").refused()


def test_the_device_commands_can_be_seen_without_a_compiler(kernels: Path) -> None:
    result = command("build", "--npu", "--arch", "dav-2201", "--dry-run", "first")
    assert result.code == 0
    compiling, linking = result.out.splitlines()
    assert "bisheng -c -x cce" in compiling and "--cce-aicore-arch=dav-c220-vec" in compiling
    assert "ld.lld -m aicorelinux" in linking and linking.endswith("dav-2201/first.o")
    both = command("build", "--npu", "--dry-run", "--json").json["commands"]
    assert {(item["kernel"], item["target"]) for item in both} == {
        (kernel, target) for kernel in ("first", "second") for target in ("dav-2201", "dav-3510")
    }


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["build"], "either --host or --npu"),
        (["build", "--host", "--npu"], "either --host or --npu"),
        (["build", "--host", "--arch", "dav-2201"], "belong to --npu"),
        (["build", "--host", "frist"], "there is no kernel 'frist': did you mean first?"),
        (["build", "--npu", "--arch", "dav-1", "--dry-run"], "unknown architecture 'dav-1'"),
        (["check", "a", "b"], "--help"),
    ],
)
def test_wrong_usage_is_one_line(kernels: Path, args: list[str], words: str) -> None:
    result = command(*args)
    assert result.code == 2 and words in result.err.splitlines()[-1] and result.out == ""


def test_check_reports_what_the_loader_would_refuse(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no prebuilt kernels" in command("check").out
    empty = tmp_path / "empty"
    empty.mkdir()
    assert command("check", str(empty)).code == 1
    monkeypatch.setenv(search.PATH, str(empty))
    missing = command("check", "--json")
    assert missing.code == 1 and missing.json["files"][0]["problem"].startswith("no index.json here")
    command("build", "--host", "first", "--output", str(empty))
    partly = command("check", "--json")
    assert partly.code == 1
    assert {item["kernel"]: item["problem"] for item in partly.json["files"]} == {
        "first": "",
        "second": "no kernel second",
    }
    (kernels / "first" / "first.cpp").write_text("int changed;\n")
    stale = command("check", "--json").json["files"][0]
    assert stale["problem"] == "first was built from another source"


def test_a_wrong_declaration_is_named_with_its_line(kernels: Path) -> None:
    (kernels / "first" / "__init__.py").write_text("import os\n\nKERNEL = Kernel(name=os.name)\n")
    assert "first/__init__.py:3: " in command("list").refused()
    catalogue.kernels.cache_clear()
    (kernels / "first" / "__init__.py").write_text("")
    assert "no 'KERNEL = Kernel(" in command("list").refused()
    catalogue.kernels.cache_clear()
    (kernels / "first" / "__init__.py").unlink()
    assert "first/__init__.py: [Errno 2]" in command("list").refused()


def test_nothing_heavy_is_imported(run_python: Callable[..., Result]) -> None:
    code = """
import sys
from ascend_patch.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "torch_npu", "vllm"} & set(sys.modules)
assert not heavy, heavy
"""
    for args in (("kernels", "list", "--json"), ("kernels", "check"), ("kernels", "build", "--npu", "--dry-run")):
        result = run_python(code, *args, environ={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
        assert result.code == 0, result.err


def test_the_real_kernels_are_declared_as_their_packages_say(run_python: Callable[..., Result]) -> None:
    code = """
import importlib, json, sys
from ascend_patch.kernels import catalogue
names = list(catalogue.kernels())
same = [importlib.import_module(f"ascend_patch.kernels.{n}").KERNEL == catalogue.kernels()[n] for n in names]
print(json.dumps(dict(zip(names, same))))
"""
    result = run_python(code, environ={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"})
    assert result.code == 0, result.err
    found = json.loads(result.out.splitlines()[-1])
    assert "compute_slot_mapping" in found and all(found.values()), found
