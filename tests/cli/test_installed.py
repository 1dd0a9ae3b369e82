"""Which distributions are found, in fake site folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from ascend_patch.engine.installed import copies, distribution_version

from .test_environment import write


def dist_info(site: Path, name: str, version: str) -> None:
    write(site / f"{name}-{version}.dist-info" / "METADATA", f"Name: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("folder", "asked", "version"),
    [
        ("torch_npu-2.13.0", "torch-npu", "2.13.0"),
        ("torch_npu-2.13.0.post3", "Torch.NPU", "2.13.0.post3"),
        ("torch-2.13.0+cpu", "torch", "2.13.0+cpu"),
        ("vllm-0.32.1.dev3+g1234abc", "vllm", "0.32.1.dev3+g1234abc"),
        ("vllm_ascend-0.23.0", "vllm", None),
        ("vllm-0.32.0", "vllm-ascend", None),
        ("~llm-0.32.0", "vllm", None),  # what an interrupted pip leaves behind
    ],
)
def test_versions_are_read_from_folder_names(tmp_path: Path, folder: str, asked: str, version: str | None) -> None:
    name, _, number = folder.partition("-")
    dist_info(tmp_path, name, number)
    assert distribution_version(asked, [str(tmp_path)]) == version


def test_the_first_folder_on_the_path_wins(tmp_path: Path) -> None:
    dist_info(tmp_path / "a", "vllm", "0.32.0")
    dist_info(tmp_path / "b", "vllm", "0.33.0")
    assert distribution_version("vllm", [str(tmp_path / "b"), str(tmp_path / "a")]) == "0.33.0"
    found = [item.version for item in copies("vllm", [str(tmp_path / "b"), str(tmp_path / "a")])]
    assert found == ["0.33.0", "0.32.0"]


def test_an_empty_metadata_folder_is_no_installation(tmp_path: Path) -> None:
    (tmp_path / "vllm-0.32.0.dist-info").mkdir()
    assert distribution_version("vllm", [str(tmp_path)]) is None


def test_egg_info_of_old_installs(tmp_path: Path) -> None:
    write(tmp_path / "vllm.egg-info" / "PKG-INFO", "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n\nVersion: 9\n")
    assert distribution_version("vllm", [str(tmp_path)]) == "0.32.0"


def test_missing_folders_and_files_on_the_path_are_passed_over(tmp_path: Path) -> None:
    path = [str(tmp_path / "missing"), str(write(tmp_path / "archive.zip"))]
    assert distribution_version("vllm", path) is None


def test_it_agrees_with_the_standard_library() -> None:
    from importlib.metadata import version

    assert distribution_version("pytest") == version("pytest")
