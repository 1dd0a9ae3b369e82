"""What holds for every command: usage errors, help, pipes, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from .conftest import Result, Toy

COMMANDS = ("list", "show", "diff", "status", "enable", "disable", "doctor", "verify", "run", "docs", "kernels")


@pytest.mark.parametrize(
    "args",
    [["frobnicate"], ["list", "--bogus"], ["show"], ["show", "a.b", "c.d"], ["diff", "math.add", "-U", "many"]],
)
def test_wrong_usage_is_one_line_and_exit_2(toy: Toy, args: list[str]) -> None:
    assert "--help" in toy(*args).refused()


def test_help_names_every_command_and_the_exit_codes(toy: Toy) -> None:
    result = toy("--help")
    assert result.code == 0
    assert all(f"\n  {name} " in result.out for name in COMMANDS)
    for word in ("Exit codes", "Examples:", "VLLM_ASCEND_PATCH_DISABLE", "ASCEND_PATCH_DEVICE", "NO_COLOR"):
        assert word in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_examples_on_lines_of_their_own(toy: Toy, command: str) -> None:
    result = toy(command, "--help")
    assert result.code == 0
    lines = [line.strip() for line in result.out.splitlines()]
    example = next(line for line in lines[lines.index("Examples:") + 1 :])
    assert example.startswith(("ascend-patch", "ASCEND_PATCH_DEVICE"))
    assert not set(result.out) & set("│╭─\x1b")


def test_commands_that_show_something_have_json(toy: Toy) -> None:
    for command in set(COMMANDS) - {"docs", "kernels"}:
        assert "--json" in toy(command, "--help").out, command


def test_version(toy: Toy) -> None:
    result = toy("--version")
    assert result.code == 0 and result.out.startswith("ascend-patch ")


def test_the_shell_completes_commands_and_ids(run_python: Callable[..., Result]) -> None:
    code = "from ascend_patch.cli import main; main()"
    environ = {
        **os.environ,
        "_ASCEND_PATCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "ascend-patch sh",
        "COMP_CWORD": "1",
    }
    assert run_python(code, environ=environ).out.split() == ["show"]
    environ |= {"COMP_WORDS": "ascend-patch show platform.n", "COMP_CWORD": "2"}
    assert "platform.npu" in run_python(code, environ=environ).out


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    # A pipe whose reading end is closed before anything is written.
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "ascend_patch.cli", "list", "--json"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


def test_nothing_heavy_is_imported(run_python: Callable[..., Result]) -> None:
    code = """
import sys
from ascend_patch.cli.app import app
try:
    app(sys.argv[1:], prog_name="ascend-patch")
except SystemExit:
    pass
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "vllm", "torch_npu", "rich", "wrapt"}))
"""
    for command in ("list", "doctor", "verify", "--help"):
        assert run_python(code, command).out.splitlines()[-1] == "[]", command
