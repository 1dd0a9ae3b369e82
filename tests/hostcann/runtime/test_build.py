"""The build: keys, lock, messages. No test compiles the real libraries; a small stand-in compiler writes the files."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ascend_patch.hostcann import HostCannError, _build, _paths, _plan
from ascend_patch.toolchain import Toolchain

FAKE = """#!/bin/sh
echo "$@" >> "$HOSTCANN_FAKE_LOG"
sleep 0.02
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then echo object > "$2"; fi
  shift
done
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that succeeds at once and logs its calls; the cache is empty."""
    path = tmp_path / "fake-c++"
    path.write_text(FAKE)
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("HOSTCANN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOSTCANN_FAKE_LOG", str(tmp_path / "calls"))
    return path


def calls(tmp_path: Path) -> list[str]:
    log = tmp_path / "calls"
    return log.read_text().splitlines() if log.exists() else []


def start_build(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from ascend_patch.hostcann import _build; print(_build.build())"],
        env={**os.environ, "PYTHONPATH": str(Path(_paths.__file__).parents[2]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_build_compiles_nothing(compiler: Path, tmp_path: Path) -> None:
    folder = _build.build()
    assert (folder / "libascendcl.so").exists() and (folder / "build.json").exists()
    count = len(calls(tmp_path))
    assert count > 10
    assert _build.build() == folder and len(calls(tmp_path)) == count
    assert not list((tmp_path / "cache").glob("staging-*"))


def test_the_key_follows_sources_torch_and_compiler(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain = Toolchain.require()
    first = _plan.Plan().build_key(toolchain)
    assert _plan.Plan().build_key(toolchain) == first
    plan = _plan.Plan()
    library = next(iter(plan.units))
    unit = next(iter(plan.units[library]))
    plan.units[library][unit] += b"\n"
    assert plan.build_key(toolchain) != first
    plan = _plan.Plan()
    plan.torch_version = b"9.9"
    assert plan.build_key(toolchain) != first
    compiler.write_text(FAKE + "# newer\n")
    assert _plan.Plan().build_key(Toolchain.require()) != first


def test_only_a_changed_unit_is_compiled_again(compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build.build()
    before = len(calls(tmp_path))
    original = _plan.Plan.units.func  # type: ignore[attr-defined]

    def changed(self: Any) -> Any:
        units = original(self)
        library = next(library for library in units if library.name == "ascendcl")
        units[library][next(iter(units[library]))] += b"// changed\n"
        return units

    from functools import cached_property

    replacement = cached_property(changed)
    replacement.__set_name__(_plan.Plan, "units")
    monkeypatch.setattr(_plan.Plan, "units", replacement)
    _build.build()
    new = calls(tmp_path)[before:]
    assert sum(" -c " in f" {line} " for line in new) == 1


def test_processes_that_start_together_build_once(compiler: Path, tmp_path: Path) -> None:
    processes = [start_build() for _ in range(3)]
    folders = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(folders) == 1 and all(process.returncode == 0 for process in processes)
    compiled = [line for line in calls(tmp_path) if " -c " in f" {line} "]
    plan = _plan.Plan()
    assert len(compiled) == sum(len(plan.compilations(library)) for library in plan.units)


def test_another_checkout_compiles_what_differs_alone(compiler: Path, tmp_path: Path) -> None:
    _build.build()
    before = len(calls(tmp_path))
    package = Path(_paths.__file__).parents[1]
    other = tmp_path / "checkout" / package.name
    shutil.copytree(package, other, ignore=lambda folder, names: set(names) & {"patches", "kernels", "__pycache__"})
    with (other / "hostcann" / "src" / "ascendcl" / "event.cpp").open("a") as unit:
        unit.write("// changed\n")
    source = "from ascend_patch.hostcann import _build, _paths; print(_paths.SOURCES, _build.build())"
    environment = {**os.environ, "PYTHONPATH": str(other.parent)}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(str(other)), done.stderr
    [compiled] = [line for line in calls(tmp_path)[before:] if " -c " in f" {line} "]
    assert str(other / "hostcann" / "src" / "ascendcl" / "event.cpp") in compiled


def test_an_object_without_anything_in_it_is_compiled_again(compiler: Path, tmp_path: Path) -> None:
    folder = _build.build()
    before = len(calls(tmp_path))
    shutil.rmtree(folder)
    empty, missing, *_ = sorted((tmp_path / "cache" / "objects").iterdir())
    empty.write_bytes(b"")
    missing.unlink()
    _build.build()
    assert sum(" -c " in f" {line} " for line in calls(tmp_path)[before:]) == 2
    assert empty.read_text() == missing.read_text() == "object\n"


def test_objects_that_no_build_used_for_long_are_removed(compiler: Path, tmp_path: Path) -> None:
    folder = _build.build()
    used = sorted((tmp_path / "cache" / "objects").iterdir())
    left = [used[0].with_name(name) for name in ("0123.o", "0123.left.tmp")]
    for path in (*used, *left):
        path.write_text("object\n")
        os.utime(path, (0, 0))
    shutil.rmtree(folder)
    with (tmp_path / "cache" / _build.LOCKS / _build.EVERY_BUILD).open() as another_build:
        fcntl.flock(another_build, fcntl.LOCK_SH)
        _build.build()
        assert all(path.exists() for path in left)
    shutil.rmtree(folder)
    _build.build()
    assert not any(path.exists() for path in left) and all(path.exists() for path in used)


def test_names_of_temporary_objects_are_never_used_twice(compiler: Path, tmp_path: Path) -> None:
    """Another container has a process of the same number, which this process stands for here."""

    def temporaries() -> list[str]:
        return [line.split(" -o ")[1].split()[0] for line in calls(tmp_path) if " -c " in f" {line} "]

    _build.build()
    first = temporaries()
    _build.clean()
    _build.build()
    both = temporaries()
    assert len(both) == 2 * len(first) and len(set(both)) == len(both)
    objects = list((tmp_path / "cache" / "objects").iterdir())
    assert len(objects) == len(first) and all(path.stat().st_mode & 0o044 == 0o044 for path in objects)


def test_builds_by_other_compilers_do_not_wait(compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other-c++"
    other.write_text(FAKE + "# other\n")
    other.chmod(0o755)
    build, folders = _build._build, []

    def with_another(*arguments: Any) -> None:
        process = start_build(CXX=str(other))
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and "waiting" not in errors, errors
        folders.append(Path(output.strip()))
        build(*arguments)

    monkeypatch.setattr(_build, "_build", with_another)
    folders.append(_build.build())
    assert len(set(folders)) == 2 and all(folder.is_dir() for folder in folders)


def test_a_build_that_starts_during_clean_waits(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _build.build()
    remove, started = shutil.rmtree, []

    def with_a_build(path: Path) -> None:
        if not started:
            process = start_build(CXX=str(compiler))
            started.append(process)
            assert process.stderr is not None
            assert "waiting for another process that is removing files" in process.stderr.readline()
        remove(path)

    compiler.write_text(FAKE + "# newer\n")  # a build of another key, which no lock exists for
    monkeypatch.setattr(_build.shutil, "rmtree", with_a_build)
    _build.clean()
    [process] = started
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (Path(output.strip()) / "libascendcl.so").exists()


def test_a_missing_compiler_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOSTCANN_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostCannError, match=r"none of c\+\+, g\+\+ and clang\+\+ was found; install one"):
        _build.build()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(HostCannError, match="CXX=no-such-compiler was not found"):
        _build.build()


def test_without_a_compiler_an_existing_build_is_used(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _build.build()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX")
    assert _build.build() == folder


def test_a_failed_compilation_names_the_unit_the_error_and_the_log(compiler: Path, tmp_path: Path) -> None:
    compiler.write_text('#!/bin/sh\necho "x.cpp:1:1: error: no such thing" >&2\nexit 1\n')
    with pytest.raises(HostCannError, match=r"error: no such thing; full output in .*log") as caught:
        _build.build()
    log = Path(str(caught.value).split("full output in ")[1].split(". GCC")[0])
    assert log.parent.name == _plan.Plan().build_key(Toolchain.require())  # another build's would have the same name
    assert not list((tmp_path / "cache" / "objects").iterdir())
    assert "error: no such thing" in log.read_text()
    assert _build.find() is None


def test_clean_empties_the_cache(compiler: Path) -> None:
    _build.build()
    _build.clean()
    assert _build.find() is None
    assert [path.name for path in _paths.cache_root().iterdir()] == [_build.LOCKS]


def test_the_command_line(compiler: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(_paths.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "ascend_patch.hostcann", "info"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "not built" in done.stdout and "aclrtIpcMemGetExportKey" in done.stdout
