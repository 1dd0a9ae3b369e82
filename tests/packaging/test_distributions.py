"""What is in the wheel, the sdist and an editable install, and what an uninstall leaves behind."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging
IGNORED = ("__pycache__", ".pyc")
AT_THE_TOP = ("ascend_patch.pth", "ascend_patch.start", "_ascend_patch_start.py")


def run(*command: str, cwd: Path, **environment: str) -> str:
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """Call the build backend as pip does: `wheel`, `editable` or `sdist`."""
    target.mkdir(parents=True, exist_ok=True)
    code = f"import hatchling.build as b, sys; print(b.build_{kind}(sys.argv[1]))"
    name = run(sys.executable, "-c", code, str(target), cwd=source).strip().splitlines()[-1]
    return target / name


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("editable", checkout, tmp_path_factory.mktemp("editable"))


@pytest.fixture
def new_environment(tmp_path: Path) -> Callable[[Path], Path]:
    """Install a wheel, alone, into a new virtual environment; gives its Python."""

    def make(distribution: Path) -> Path:
        folder = tmp_path / "venv"
        run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=tmp_path)
        python = folder / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        run(*pip, "install", "--no-deps", "--no-index", str(distribution), cwd=tmp_path)
        return python

    return make


def site_packages(python: Path) -> Path:
    return next((python.parent.parent / "lib").glob("python*/site-packages"))


def wanted_files(checkout: Path) -> dict[str, bytes]:
    """Every file of the package as it has to be in the wheel, with its content."""
    places = {"ascend_patch": checkout / "ascend_patch", "ascend_patch/patches": checkout / "patches",
              "ascend_patch/kernels": checkout / "kernels"}  # fmt: skip
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for name, folder in places.items()
        for path in folder.rglob("*")
        if path.is_file() and not any(part in str(path) for part in IGNORED)
    }


def test_wheel_holds_the_whole_package_and_nothing_else(wheel: Path, checkout: Path) -> None:
    wanted = wanted_files(checkout)
    assert any(name.startswith("ascend_patch/hostcann/src/") and name.endswith(".cpp") for name in wanted)
    assert any(name.startswith("ascend_patch/patches/contracts/") and name.endswith(".json") for name in wanted)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        start = {name: packed.pop(name) for name in AT_THE_TOP}
        links = [item.filename for item in archive.infolist() if (item.external_attr >> 16) & 0o170000 == 0o120000]
    assert links == []
    assert sorted(packed) == sorted(wanted)
    assert packed == wanted
    assert all((checkout / "packaging" / name).read_bytes() == content for name, content in start.items())


def test_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "ascend-patch = ascend_patch.cli:main" in text
    assert "[vllm.general_plugins]\nascend_patch = ascend_patch.activation:plugin" in text


def test_wheel_from_sdist_is_the_same(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    sdist = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive.getmembers() if member.issym() or member.islnk()] == []
        # Python 3.11 has filters from 3.11.4 on.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "unpacked", **safely)
    (source,) = (tmp_path / "unpacked").iterdir()
    again = build("wheel", source, tmp_path / "again")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())
        for name in first.namelist():
            assert first.read(name) == second.read(name), name


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_install_and_uninstall(
    kind: str, request: pytest.FixtureRequest, new_environment: Callable[[Path], Path], tmp_path: Path
) -> None:
    python = new_environment(request.getfixturevalue(kind))
    site = site_packages(python)
    assert all((site / name).is_file() for name in AT_THE_TOP)
    find = "import importlib.util as u, sys; print(*(n for n in sys.argv[1:] if u.find_spec(n)))"
    names = ("ascend_patch.patches", "ascend_patch.kernels", "patches", "kernels", "tests", "scripts")
    found = run(str(python), "-c", find, *names, cwd=tmp_path).split()
    assert found == ["ascend_patch.patches", "ascend_patch.kernels"]

    run(sys.executable, "-m", "pip", "--python", str(python), "uninstall", "--yes", "ascend-patch", cwd=tmp_path)
    assert list(python.parent.parent.rglob("*ascend*")) == []


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_interpreter_start(
    kind: str, request: pytest.FixtureRequest, new_environment: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Off: not a single module of ours. On: the boot module, at most two. Neither prints anything."""
    python = new_environment(request.getfixturevalue(kind))
    ask = "import sys; print(*sorted(n for n in sys.modules if n.startswith('ascend_patch')))"
    assert run(str(python), "-c", ask, cwd=tmp_path).split() == []
    assert run(str(python), "-c", ask, cwd=tmp_path, VLLM_ASCEND_AUTOPATCH="0").split() == []
    on = run(str(python), "-c", ask, cwd=tmp_path, VLLM_ASCEND_AUTOPATCH="1").split()
    assert "ascend_patch._boot" in on
    assert len(on) <= 2


def test_start_is_silent_without_the_package(
    wheel: Path, new_environment: Callable[[Path], Path], tmp_path: Path
) -> None:
    """A half-removed install must not disturb every Python start."""
    import shutil

    python = new_environment(wheel)
    shutil.rmtree(site_packages(python) / "ascend_patch")
    done = subprocess.run([str(python), "-c", "print('fine')"], env={"VLLM_ASCEND_AUTOPATCH": "1"}, cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "fine")
    assert done.stderr == ""
