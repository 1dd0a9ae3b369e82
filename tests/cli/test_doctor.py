"""`doctor`: each finding and its remedy, on machines made of folders."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ascend_patch.cli import checks_machine, checks_overlay, checks_software
from ascend_patch.cli.app import app
from ascend_patch.cli.doctor import examine
from ascend_patch.cli.findings import Finding, Machine

from .conftest import Result, Toy
from .test_environment import write
from .test_installed import dist_info


@pytest.fixture
def machine(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine without an NPU, with the toy package and nothing else."""
    runtime = toy.root / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    environ = {"HOME": str(toy.root / "home"), "PATH": "/usr/bin:/bin"}
    return Machine(toy.fresh(), environ, [str(toy.site)], str(toy.root / "machine"), sys.executable)


def with_device(machine: Machine, device: str) -> Machine:
    workspace = machine.workspace.with_environ({**machine.workspace.environ, "ASCEND_PATCH_DEVICE": device})
    return replace(machine, workspace=workspace)


def add_npus(machine: Machine, count: int = 2) -> None:
    for number in range(count):
        write(Path(machine.dev) / f"davinci{number}")
    for name in checks_machine.COMPANION_NODES:
        write(Path(machine.dev) / name)


def levels(findings: Iterator[Finding]) -> dict[str, str]:
    found = list(findings)
    for finding in found:
        assert finding.message and bool(finding.remedy) == (finding.level != "ok"), finding
    order = ("ok", "warning", "error")
    return {
        finding.check: max((f.level for f in found if f.check == finding.check), key=order.index) for finding in found
    }


def text(findings: Iterator[Finding]) -> str:
    return "\n".join(f"{finding.message} -> {finding.remedy}" for finding in findings)


def test_the_whole_list_has_a_remedy_for_everything_that_is_not_ok(machine: Machine) -> None:
    found = levels(examine(machine))
    assert {"python", "vllm", "torch", "torch-npu", "vllm-ascend", "triton", "device", "cann", "soc", "driver",
            "hostcann", "bootstrap", "settings", "last run", "disk"} <= set(found)  # fmt: skip
    assert found["device"] == "error" and found["vllm-ascend"] == "ok"


def test_vllm_in_order(machine: Machine) -> None:
    assert levels(checks_software.vllm(machine)) == {"vllm": "ok"}
    assert "contract known" in text(checks_software.vllm(machine))


def test_vllm_missing(machine: Machine) -> None:
    assert levels(checks_software.vllm(replace(machine, path=[]))) == {"vllm": "error"}


def test_vllm_unsupported(machine: Machine, toy: Toy) -> None:
    toy.install("3.0.0")
    toy.write("gadget/core.py", "")
    found = text(checks_software.vllm(machine))
    assert "3.0.0 is not supported: patches cover >=0.1,<0.2, >=0.5,<2 -> install a supported version" in found
    assert levels(checks_software.vllm(machine)) == {"vllm": "error"}


@pytest.mark.parametrize("version", ["3.0.0", "0.0.dev1+g5e40263c3"])
def test_vllm_that_is_taken_for_another_version(machine: Machine, toy: Toy, version: str) -> None:
    toy.install(version)
    found = text(checks_software.vllm(machine))
    assert f"vLLM {version}: 4 of 6 patches apply" in found
    assert "its sources meet the contracts of 1.5.0 best" in found
    assert levels(checks_software.vllm(machine)) == {"vllm": "warning"}


def test_vllm_without_a_contract(machine: Machine, toy: Toy) -> None:
    toy.install("1.9.0")
    assert levels(checks_software.vllm(machine)) == {"vllm": "warning"}
    assert "verify" in text(checks_software.vllm(machine))


def test_vllm_with_a_required_patch_that_drifted(machine: Machine, toy: Toy) -> None:
    toy.edit("gadget/core.py", "os.cuda.device", "os.xpu.device")
    assert levels(checks_software.vllm(machine)) == {"vllm": "error"}
    assert "device.where" in text(checks_software.vllm(machine))


def test_vllm_installed_twice(machine: Machine, toy: Toy) -> None:
    dist_info(toy.root / "second", "gadget", "1.4.0")
    found = replace(machine, path=[*machine.path, str(toy.root / "second")])
    assert "1.5.0" in text(checks_software.vllm(found)) and "1.4.0" in text(checks_software.vllm(found))
    assert levels(checks_software.vllm(found)) == {"vllm": "warning"}


@pytest.mark.parametrize(
    ("torch", "npu", "expected"),
    [
        ("2.13.0+cpu", "2.13.0", {"torch": "ok", "torch-npu": "ok"}),
        ("2.13.0", "2.13.0.post3", {"torch": "ok", "torch-npu": "ok"}),
        ("2.13.0", "2.9.0", {"torch": "ok", "torch-npu": "error"}),
        ("2.14.0", "2.14.0", {"torch": "warning", "torch-npu": "ok"}),  # not what the toy pins
        ("2.13.0", None, {"torch": "ok", "torch-npu": "error"}),
        (None, None, {"torch": "error", "torch-npu": "error"}),
    ],
)
def test_torch_and_its_pair(
    machine: Machine, toy: Toy, torch: str | None, npu: str | None, expected: dict[str, str]
) -> None:
    metadata = toy.site / "gadget-1.5.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: torch==2.13.0\nRequires-Dist: torchaudio==1.0\n")
    for name, version in (("torch", torch), ("torch_npu", npu)):
        if version:
            dist_info(toy.site, name, version)
    assert levels(checks_software.torch(machine)) == expected


def test_the_official_plugin_conflicts(machine: Machine, toy: Toy) -> None:
    assert levels(checks_software.plugin(machine)) == {"vllm-ascend": "ok"}
    dist_info(toy.site, "vllm_ascend", "0.23.0")
    assert levels(checks_software.plugin(machine)) == {"vllm-ascend": "error"}
    assert "pip uninstall vllm-ascend" in text(checks_software.plugin(machine))


@pytest.mark.parametrize(
    ("names", "level"),
    [((), "ok"), (("triton",), "ok"), (("triton_ascend",), "warning"), (("triton", "triton_ascend"), "warning")],
)
def test_triton(machine: Machine, toy: Toy, names: tuple[str, ...], level: str) -> None:
    for name in names:
        dist_info(toy.site, name, "3.2.0")
    assert levels(checks_software.triton(machine)) == {"triton": level}


def test_device_decision(machine: Machine) -> None:
    assert levels(checks_machine.device(machine)) == {"device": "error"}
    assert "ASCEND_PATCH_DEVICE=host" in text(checks_machine.device(machine))
    assert "no result from it is an NPU result" in text(checks_machine.device(with_device(machine, "host")))
    assert levels(checks_machine.device(with_device(machine, "npu"))) == {"device": "error"}
    add_npus(machine)
    assert levels(checks_machine.device(replace(machine))) == {"device": "ok"}


def test_cann(machine: Machine) -> None:
    assert levels(checks_machine.cann(with_device(machine, "host"))) == {"cann": "ok"}
    assert levels(checks_machine.cann(machine)) == {"cann": "error"}
    folder = Path(machine.root) / "usr/local/Ascend/cann"
    info = write(folder / "x86_64-linux/ascend_toolkit_install.info", "version=8.5.0\n")
    assert f"source {folder}/set_env.sh" in text(checks_machine.cann(machine))
    sourced = replace(machine, environ={**machine.environ, "ASCEND_HOME_PATH": str(folder)})
    assert levels(checks_machine.cann(sourced)) == {"cann": "ok"}
    info.write_text("version=8.2.RC1\n")
    assert "older than 8.5" in text(checks_machine.cann(sourced))
    info.write_text("")
    assert levels(checks_machine.cann(sourced)) == {"cann": "warning"}
    lost = replace(machine, environ={**machine.environ, "ASCEND_HOME_PATH": "/no/such/folder"})
    assert "does not exist" in text(checks_machine.cann(lost))


def test_driver_and_device_nodes(machine: Machine) -> None:
    assert levels(checks_machine.driver(with_device(machine, "host"))) == {"driver": "ok"}
    assert levels(checks_machine.driver(machine)) == {"driver": "error", "devices": "error"}
    add_npus(machine)
    write(Path(machine.root) / "usr/local/Ascend/driver/version.info", "Version=25.5.1\n")
    assert levels(checks_machine.driver(machine)) == {"driver": "ok", "devices": "ok"}
    (Path(machine.dev) / "devmm_svm").unlink()
    assert "--device=/dev/devmm_svm" in text(checks_machine.driver(machine))


def test_a_device_without_permission(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    add_npus(machine)
    # Root may open everything whatever its mode is, so the answer is given here.
    monkeypatch.setattr(checks_machine.os, "access", lambda node, mode: not str(node).endswith("davinci1"))
    found = text(checks_machine.driver(machine))
    assert "davinci1" in found and "davinci0" not in found


def test_soc(machine: Machine) -> None:
    assert levels(checks_machine.soc(machine)) == {"soc": "warning"}
    assert levels(checks_machine.soc(with_device(machine, "host"))) == {"soc": "ok"}
    bus = Path(machine.root) / "sys/bus/pci/devices/0000:01:00.0"
    for name, value in (("vendor", "0x19e5"), ("device", "0xd100"), ("class", "0x120000")):
        write(bus / name, value)
    assert "Ascend310:" in text(checks_machine.soc(machine))
    (bus / "device").write_text("0xd802\n")
    assert levels(checks_machine.soc(machine)) == {"soc": "ok"}


def interpreter(machine: Machine, script: str) -> Machine:
    path = write(Path(machine.root) / "python", f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return replace(machine, interpreter=str(path))


def test_bootstrap(machine: Machine, toy: Toy, checkout: Path) -> None:
    assert "no start-up file" in text(checks_overlay.bootstrap(machine))
    write(toy.site / "ascend_patch.pth", (checkout / "packaging" / "ascend_patch.pth").read_text())
    works = interpreter(machine, 'test "$VLLM_ASCEND_AUTOPATCH" = 1 && echo True 0')
    assert "not set in this shell" in text(checks_overlay.bootstrap(works))
    on = replace(works, environ={**works.environ, "VLLM_ASCEND_AUTOPATCH": "1"})
    assert levels(checks_overlay.bootstrap(on)) == {"bootstrap": "ok"}
    off = replace(works, environ={**works.environ, "VLLM_ASCEND_AUTOPATCH": "0"})
    assert "keeps the overlay off" in text(checks_overlay.bootstrap(off))
    assert "(-S)" in text(checks_overlay.bootstrap(interpreter(machine, "echo False 1")))
    broken = interpreter(machine, "echo 'Error processing line 1' >&2; echo False 0")
    assert "Error processing line 1" in text(checks_overlay.bootstrap(broken))
    lost = replace(machine, interpreter="/no/such/python")
    assert "could not be started" in text(checks_overlay.bootstrap(lost))


def test_settings(machine: Machine, toy: Toy) -> None:
    assert "nothing switched" in text(checks_overlay.settings(machine))
    file = write(toy.project / "ascend_patch.toml", 'disable = ["life.stop"]\n')
    fresh = replace(machine, workspace=toy.fresh())
    assert str(file) in text(checks_overlay.settings(fresh)) and "disable life.stop" in text(
        checks_overlay.settings(fresh)
    )
    file.write_text('disable = ["life.nope"]\n')
    broken = replace(machine, workspace=toy.fresh())
    assert levels(checks_overlay.settings(broken)) == {"settings": "error"}
    # Broken settings break no other check.
    assert levels(checks_machine.device(broken)) == {"device": "error"}
    assert levels(checks_software.vllm(broken)) == {"vllm": "ok"}


def record(toy: Toy, pid: int, patches: dict[str, dict[str, object]]) -> None:
    raw = {"pid": pid, "ticks": 1, "started": pid, "role": "main", "version": "1.5.0", "patches": patches}
    write(toy.root / "runtime" / "ascend_patch" / "20260101T000000-1" / f"{pid}.jsonl", json.dumps(raw) + "\n")


def test_last_run(machine: Machine, toy: Toy) -> None:
    assert "none recorded" in text(checks_overlay.last_run(machine))
    record(toy, 99999991, {"math.add": {"state": "applied"}})
    assert levels(checks_overlay.last_run(machine)) == {"last run": "ok"}
    record(toy, 99999991, {"math.add": {"state": "applied", "stale_aliases": ["other.module.add"]}})
    assert "other.module.add" in text(checks_overlay.last_run(machine))
    assert levels(checks_overlay.last_run(machine)) == {"last run": "warning"}
    record(toy, 99999992, {"math.add": {"state": "failed"}})
    found = text(checks_overlay.last_run(machine))
    assert "do not agree" in found and "math.add failed" in found
    assert levels(checks_overlay.last_run(machine)) == {"last run": "error"}


def test_disk(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path(machine.dev) / "shm" / "x")
    assert set(levels(checks_machine.disk(machine))) == {"disk", "shared memory"}
    monkeypatch.setattr(checks_machine.shutil, "disk_usage", lambda _: type("U", (), {"free": 64 << 20}))
    assert levels(checks_machine.disk(machine)) == {"disk": "warning", "shared memory": "warning"}
    assert "--shm-size" in text(checks_machine.disk(machine))


def test_the_command_prints_json_and_is_exit_1_on_an_error(machine: Machine) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"], obj=machine)
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert set(found) == {"ok", "device", "findings"} and found["ok"] is False and found["device"] is None
    assert all(set(item) == {"check", "level", "message", "remedy"} for item in found["findings"])


def test_warnings_alone_are_exit_0(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from ascend_patch.cli import doctor

    monkeypatch.setattr(doctor, "checks", lambda: (checks_overlay.bootstrap, checks_overlay.settings))
    done = CliRunner().invoke(app, ["doctor"], obj=machine)
    assert done.exit_code == 0 and "warning" in done.stdout and "-> pip install" in done.stdout


def test_neither_vllm_nor_torch_is_imported(run_python: Callable[..., Result]) -> None:
    code = """
import sys
from ascend_patch.cli.app import app
try:
    app(["doctor", "--json"], prog_name="ascend-patch")
except SystemExit:
    pass
print(sorted({"torch", "vllm", "torch_npu"} & set(sys.modules)), file=sys.stderr)
"""
    for device in ("auto", "host"):
        result = run_python(code, environ={**os.environ, "ASCEND_PATCH_DEVICE": device})
        assert result.err.strip() == "[]"
        assert {item["check"] for item in result.json["findings"]} >= {"vllm", "torch", "torch-npu", "bootstrap"}
