"""`run`: the environment it hands to a command, and what it refuses before starting one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Result, Toy

SHOW_ENVIRONMENT = (
    "import json, os, sys; print(json.dumps({'args': sys.argv[1:], 'environ': dict(os.environ)})); sys.exit(5)"
)

COMMAND_LINE = """
import json, os, sys
from pathlib import Path
from ascend_patch.cli.app import app
from ascend_patch.cli.workspace import Workspace
sys.path.insert(0, sys.argv[1] + "/site")
app(json.loads(sys.argv[2]), obj=Workspace("gadget_patches", "gadget", Path(sys.argv[1], "project"),
    json.loads(sys.argv[3]), Path(sys.argv[1], "contracts")), prog_name="ascend-patch")
"""


@pytest.fixture(autouse=True)
def stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that should have been refused must not replace the test process."""

    def refuse(program: str, *_: object) -> None:
        raise AssertionError(f"{program} was started")

    monkeypatch.setattr("os.execve", refuse)


@pytest.fixture
def in_process(toy: Toy, run_python: Callable[..., Result]) -> Callable[..., Result]:
    """The toy's command line in a process of its own, which `run` replaces."""

    def run(*args: str, **environ: str) -> Result:
        given = {**toy.workspace.environ, **environ}
        return run_python(COMMAND_LINE, str(toy.root), json.dumps(args), json.dumps(given))

    return run


def started(result: Result) -> dict[str, Any]:
    assert result.code == 5, result
    return dict(json.loads(result.out))


def test_the_command_replaces_the_process_and_keeps_its_exit_code(in_process: Callable[..., Result]) -> None:
    found = started(in_process("run", "--", sys.executable, "-c", SHOW_ENVIRONMENT, "--disable", "x", "-h"))
    assert found["args"] == ["--disable", "x", "-h"]
    assert found["environ"]["VLLM_ASCEND_AUTOPATCH"] == "1"
    assert "VLLM_ASCEND_PATCH_DISABLE" not in found["environ"]


def test_switches_become_variables(in_process: Callable[..., Result]) -> None:
    options = ["--disable", "math.add", "--disable", "life.stop", "--strict", "--device", "host"]
    environ = started(in_process("run", *options, "--", sys.executable, "-c", SHOW_ENVIRONMENT))["environ"]
    assert environ["VLLM_ASCEND_PATCH_DISABLE"] == "math.add,life.stop"
    assert environ["VLLM_ASCEND_PATCH_STRICT"] == "1"
    assert environ["ASCEND_PATCH_DEVICE"] == "host"


def test_without_a_device_it_warns_and_goes_on(in_process: Callable[..., Result]) -> None:
    result = in_process("run", "--device", "auto", "--", sys.executable, "-c", SHOW_ENVIRONMENT)
    started(result)
    if "inactive" in result.err:  # a machine with an NPU has nothing to warn about
        assert "--device host" in result.err and result.err.count("\n") == 1


def test_a_command_that_does_not_exist_is_127(in_process: Callable[..., Result]) -> None:
    result = in_process("run", "--device", "host", "--", "no-such-command-anywhere")
    assert (result.code, result.out) == (127, "")
    assert result.err == "ascend-patch: no-such-command-anywhere: command not found\n"


def environment_of(toy: Toy, *options: str, **environ: str) -> dict[str, str]:
    result = toy("run", *options, "--dry-run", "--json", "--", "job", "--flag", environ=environ)
    assert result.code == 0, result
    return dict(result.json["environment"])


def test_dry_run_describes_everything_and_runs_nothing(toy: Toy) -> None:
    marker = toy.root / "marker"
    result = toy("run", "--disable", "math.add", "--device", "host", "--dry-run", "--json", "--", "touch", str(marker))
    assert result.code == 0 and not marker.exists()
    found = result.json
    assert set(found) == {
        "command", "environment", "device", "device_reason", "package", "version", "patches", "problems",
    }  # fmt: skip
    assert found["command"] == ["touch", str(marker)]
    assert (found["device"], found["version"], found["problems"]) == ("host", "1.5.0", [])
    states = {patch["id"]: patch["state"] for patch in found["patches"]}
    assert states["math.add"] == "disabled" and states["device.where"] == "pending"
    text = toy("run", "--dry-run", "--", "touch", str(marker)).out
    assert f"touch {marker}" in text and "VLLM_ASCEND_AUTOPATCH=1" in text and "device.where" in text


def test_dry_run_is_exit_1_when_a_required_patch_drifted(toy: Toy) -> None:
    toy.edit("gadget/core.py", "os.cuda.device", "os.xpu.device")
    result = toy("run", "--dry-run", "--", "job")
    assert result.code == 1 and "device.where drifted" in result.err


def test_the_environments_own_lists_are_kept(toy: Toy) -> None:
    changes = environment_of(toy, "--disable", "life.stop", VLLM_ASCEND_PATCH_DISABLE="math.add")
    assert changes["VLLM_ASCEND_PATCH_DISABLE"] == "math.add,life.stop"
    changes = environment_of(toy, "--enable", "math.add", VLLM_ASCEND_PATCH_DISABLE="math.add,life.stop")
    assert changes["VLLM_ASCEND_PATCH_DISABLE"] == "life.stop"


def test_enable_overrules_the_project_file(toy: Toy) -> None:
    (toy.project / "ascend_patch.toml").write_text('disable = ["life.stop"]\n')
    result = toy("run", "--enable", "life.stop", "--dry-run", "--json", "--", "job")
    assert {patch["id"]: patch["state"] for patch in result.json["patches"]}["life.stop"] == "pending"


def test_only_takes_in_what_it_needs_and_what_is_required(toy: Toy) -> None:
    changes = environment_of(toy, "--only", "math.add")
    assert set(changes["VLLM_ASCEND_PATCH_ONLY"].split(",")) == {"math.add", "device.registry", "device.where"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--disable", "math.ad"], "did you mean math.add"),
        (["--only", "nothing.here"], "'ascend-patch list' shows all"),
        (["--disable", "math.add", "--enable", "math.add"], "contradicts"),
        (["--disable", "math.add", "--only", "math.add"], "contradicts"),
        (["--disable", "device.where"], "required"),
        (["--enable", "math.add", "--enable", "math.run"], "math.run"),
        (["--device", "gpu"], "use npu, host or auto"),
        (["--json"], "--dry-run"),
    ],
)
def test_refusals_before_anything_runs(toy: Toy, options: list[str], words: str) -> None:
    marker = toy.root / "marker"
    assert words in toy("run", *options, "--", "touch", str(marker)).refused()
    assert not marker.exists()


def test_an_enable_that_would_do_nothing_is_refused(toy: Toy) -> None:
    environ = {"VLLM_ASCEND_PATCH_ONLY": "device.where"}
    line = toy("run", "--enable", "life.stop", "--", "true", environ=environ).refused()
    assert "life.stop would stay off, not selected by VLLM_ASCEND_PATCH_ONLY" in line


def test_contradictory_settings_are_refused(toy: Toy) -> None:
    environ = {
        "VLLM_ASCEND_PATCH_ONLY": "device.where,math.add,device.registry",
        "VLLM_ASCEND_PATCH_DISABLE": "math.add",
    }
    assert "VLLM_ASCEND_PATCH_DISABLE" in toy("run", "--", "true", environ=environ).refused()


def test_no_command_is_wrong_usage(toy: Toy) -> None:
    assert "COMMAND" in toy("run", "--disable", "math.add").refused()
