"""The toy kernel in a folder of its own, its build, and a device that nothing has been launched on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ascend_patch.kernels import catalogue
from ascend_patch.kernels.building import host
from ascend_patch.kernels.loading import launching, search

from . import toy

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of kernels with the toy alone; empty cache, no environment variables, nothing loaded."""
    folder = tmp_path / "kernels"
    toy.write(folder)
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    monkeypatch.setattr(host, "HEADERS", folder / "host")
    monkeypatch.setattr(search, "PREBUILT", folder / "prebuilt")
    monkeypatch.setattr(host.files, "cache_folder", lambda: tmp_path / "cache")
    for name in (search.SWITCH, search.PATH):
        monkeypatch.delenv(name, raising=False)
    forget()
    yield folder
    forget()


def forget() -> None:
    """Nothing was searched, loaded or listed yet."""
    catalogue.kernels.cache_clear()
    search.find.cache_clear()
    launching._plans.clear()


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy built for this machine, ``<folder>/host-<machine>/index.json``; not to be changed."""
    root = tmp_path_factory.mktemp("toy")
    toy.write(root / "kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "FOLDER", root / "kernels")
        patch.setattr(host, "HEADERS", root / "kernels" / "host")
        return host.build_into([toy.KERNEL], root / "built").parent


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """A copy of the built toy to tamper with: the folder with ``index.json``."""
    import shutil

    source = built_once / host.host_target().name
    return Path(shutil.copytree(source, tmp_path / "explicit" / source.name))


@pytest.fixture
def npu() -> ModuleType:
    """torch with torch-npu on hostcann, in this process."""
    from ascend_patch import hostcann

    hostcann.load()
    import torch
    import torch_npu  # noqa: F401

    hostcann.attach()
    torch.npu.set_device(0)
    return torch
