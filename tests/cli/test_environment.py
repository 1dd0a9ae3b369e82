"""What `environment` finds in fake trees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_patch import environment


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_missing_folder_of_devices_is_an_empty_one(tmp_path: Path) -> None:
    assert environment.device_nodes(str(tmp_path / "missing")) == []


def test_device_nodes_are_numbered_ones_only(tmp_path: Path) -> None:
    for name in ("davinci10", "davinci2", "davinci_manager", "null"):
        write(tmp_path / name)
    assert environment.device_nodes(str(tmp_path)) == [str(tmp_path / "davinci2"), str(tmp_path / "davinci10")]
    assert environment.has_npu_device(str(tmp_path))
    (tmp_path / "davinci2").unlink()
    (tmp_path / "davinci10").unlink()
    assert not environment.has_npu_device(str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "nodes", "device"),
    [
        ("auto", 0, None), ("auto", 1, "npu"), ("", 2, "npu"), ("npu", 0, "npu"), ("npu", 1, "npu"),
        ("host", 0, "host"), ("host", 8, "host"),
    ],
)  # fmt: skip
def test_the_cpu_is_never_chosen_unasked(tmp_path: Path, setting: str, nodes: int, device: str | None) -> None:
    for number in range(nodes):
        write(tmp_path / f"davinci{number}")
    decision = environment.decide_device(setting, str(tmp_path))
    assert decision.device == device and decision.reason


def test_an_unknown_device_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="auto, npu or host"):
        environment.decide_device("cuda", str(tmp_path))


INFO = "x86_64-linux/ascend_toolkit_install.info"
CANN_FILES = {
    "an old toolkit": ("ascend-toolkit/latest", INFO, "version=8.2.RC1\n", "8.2.RC1"),
    "a new toolkit": ("cann", "aarch64-linux/ascend_toolkit_install.info", "package_name=x\nversion=8.5.0\n", "8.5.0"),
    "nnae": ("nnae/latest", "ascend_nnae_install.info", "version=8.0.RC3\n", "8.0.RC3"),
    "parts": ("ascend-toolkit/latest", "runtime/version.info", "Version=7.7.0.1.238\nversion_dir=8.3.RC1\n", "8.3.RC1"),
    "the folder's name": ("cann-8.6.0", "set_env.sh", "", "8.6.0"),
    "nothing": ("ascend-toolkit/latest", "set_env.sh", "", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CANN_FILES.values(), ids=CANN_FILES.keys())
def test_cann_in_its_default_folders(tmp_path: Path, case: tuple[str, str, str, str]) -> None:
    folder, name, text, version = case
    write(tmp_path / "usr/local/Ascend" / folder / name, text)
    found = environment.find_cann({}, str(tmp_path))
    assert found is not None
    assert (found.home, found.version) == (str(tmp_path / "usr/local/Ascend" / folder), version)


def test_cann_variables_go_before_folders_and_are_not_skipped_when_wrong(tmp_path: Path) -> None:
    write(tmp_path / "usr/local/Ascend/cann/x86_64-linux/ascend_toolkit_install.info", "version=8.5.0\n")
    write(tmp_path / "mine/x86_64-linux/ascend_toolkit_install.info", "version=9.0.0\n")
    environ = {"ASCEND_HOME_PATH": str(tmp_path / "mine"), "ASCEND_TOOLKIT_HOME": "/other"}
    assert environment.find_cann(environ, str(tmp_path)) == environment.Cann(
        str(tmp_path / "mine"), "9.0.0", "ASCEND_HOME_PATH"
    )
    gone = environment.find_cann({"ASCEND_TOOLKIT_HOME": str(tmp_path / "gone")}, str(tmp_path))
    assert gone == environment.Cann(str(tmp_path / "gone"), "", "ASCEND_TOOLKIT_HOME")


def test_the_newest_of_several_cann_folders(tmp_path: Path) -> None:
    for version in ("8.9.0", "8.10.0", "8.10.RC1"):
        (tmp_path / "usr/local/Ascend" / f"cann-{version}").mkdir(parents=True)
    found = environment.find_cann({}, str(tmp_path))
    assert found is not None and found.version == "8.10.0"


def test_cann_in_the_home_folder_and_none_at_all(tmp_path: Path) -> None:
    assert environment.find_cann({"HOME": str(tmp_path)}, str(tmp_path)) is None
    (tmp_path / "Ascend" / "cann").mkdir(parents=True)
    found = environment.find_cann({"HOME": str(tmp_path)}, str(tmp_path))
    assert found is not None and found.home == str(tmp_path / "Ascend" / "cann")


def test_driver_and_tool(tmp_path: Path) -> None:
    assert environment.driver_version(str(tmp_path)) is None
    write(tmp_path / "usr/local/Ascend/driver/version.info", "Version=25.5.1\nascendhal_version=7.35.23\n")
    assert environment.driver_version(str(tmp_path)) == "25.5.1"
    assert environment.npu_smi({"PATH": ""}, str(tmp_path)) is None
    tool = write(tmp_path / "usr/local/sbin/npu-smi")
    assert environment.npu_smi({"PATH": ""}, str(tmp_path)) == str(tool)
    own = write(tmp_path / "bin/npu-smi")
    assert environment.npu_smi({"PATH": f"{tmp_path}/bin"}, str(tmp_path)) == str(own)


def test_socs_by_pci_id(tmp_path: Path) -> None:
    devices = {
        "0000:01:00.0": ("0x19e5", "0xd802", "0x120000"),
        "0000:02:00.0": ("0x19e5", "0xd802", "0x120000"),
        "0000:03:00.0": ("0x19e5", "0xd803", "0x120000"),
        "0000:04:00.0": ("0x19e5", "0xdfff", "0x120000"),  # an NPU that is not listed yet
        "0000:05:00.0": ("0x19e5", "0x1822", "0x020000"),  # a network card of the same vendor
        "0000:06:00.0": ("0x10de", "0xd802", "0x030000"),  # another vendor
    }
    for name, (vendor, device, kind) in devices.items():
        for field, value in (("vendor", vendor), ("device", device), ("class", kind)):
            write(tmp_path / "sys/bus/pci/devices" / name / field, value + "\n")
    assert environment.soc_families(str(tmp_path)) == {
        "Ascend910B": 2,
        "Ascend910_93": 1,
        "Ascend (PCI 19e5:dfff)": 1,
    }
    assert environment.soc_families(str(tmp_path / "empty")) == {}


def test_bootstrap_files(tmp_path: Path, checkout: Path) -> None:
    site = tmp_path / "site-packages"
    write(site / "_editable_ascend_patch.pth", f"{checkout}\n")
    write(site / "distutils-precedence.pth", "import os; os.environ.get('X')\n")
    assert environment.bootstrap_files([str(site)]) == []
    shipped = checkout / "packaging" / "ascend_patch.pth"
    ours = write(site / "ascend_patch.pth", shipped.read_text())
    assert environment.bootstrap_files([str(site), str(site)]) == [environment.BootstrapFile(str(ours), str(site))]


def test_inherited_variables_are_those_of_the_start(tmp_path: Path) -> None:
    code = """
import os
os.environ["LATER"] = "1"
os.environ["GIVEN"] = "changed"
from ascend_patch.environment import inherited_environ
found = inherited_environ()
print(found["GIVEN"], "LATER" in found, inherited_environ("/no/such/file")["LATER"])
"""
    environ = {**os.environ, "GIVEN": "a=b"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a=b", "False", "1"]
