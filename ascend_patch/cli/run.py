"""``ascend-patch run``: one command with the overlay, and switches for this command only."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from typing import Annotated

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.choices import patch_ids
from ascend_patch.cli.errors import FINDING, Refusal
from ascend_patch.cli.switch import refuse_required
from ascend_patch.cli.workspace import Workspace

HELP = """Run a command with the overlay on.

\b
The switches hold for this command and the processes it starts. They go before
ascend_patch.toml. The exit code is the command's own; 127: the command was not found;
2: refused before it was started.
"""

EXAMPLES = """\b
Examples:
  ascend-patch run -- vllm serve MODEL
  ascend-patch run --device host -- python job.py
  ascend-patch run --disable ops.rms_norm --disable ops.activation -- python job.py
  ascend-patch run --only ops.rms_norm --dry-run -- python job.py    required ones and this one

\b
JSON keys of --dry-run: command[], environment{}, device (null: the overlay stays inactive),
device_reason, package, version, patches[]: id, required, state, reason; problems[]."""

NOT_FOUND = 127

Repeated = list[str] | None


def run(
    context: typer.Context,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="The command and its arguments.")],
    disable: Annotated[
        Repeated, typer.Option("--disable", metavar="ID", help="Without this patch.", autocompletion=patch_ids)
    ] = None,
    enable: Annotated[
        Repeated, typer.Option("--enable", metavar="ID", help="With this patch.", autocompletion=patch_ids)
    ] = None,
    only: Annotated[
        Repeated,
        typer.Option(
            "--only",
            metavar="ID",
            help="With this patch, what it requires, and the required ones.",
            autocompletion=patch_ids,
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Any drift is an error.")] = False,
    device: Annotated[str | None, typer.Option("--device", metavar="npu|host|auto", help="What to run on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would happen, run nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (with --dry-run).")] = False,
) -> None:
    """Run a command with the overlay on."""
    here = workspace.of(context)
    if as_json and not dry_run:
        raise Refusal("--json describes a dry run: add --dry-run")
    chosen = Switches(disable or [], enable or [], only or [], strict, device)
    changes = environment_changes(here, chosen)
    child = here.with_environ({**here.environ, **changes})
    _check_in_force(child, chosen)
    if dry_run:
        _describe(child, command, changes, as_json)
        return
    _execute(child, command)


class Switches:
    """What the options of one `run` say."""

    def __init__(
        self, disable: list[str], enable: list[str], only: list[str], strict: bool, device: str | None
    ) -> None:
        self.disable = disable
        self.enable = enable
        self.only = only
        self.strict = strict
        self.device = device


def environment_changes(here: Workspace, chosen: Switches) -> dict[str, str]:
    """The variables to set so that the child and its children see exactly these switches.

    Raises:
        Refusal: an unknown id or device, a contradiction, or a required patch switched off.
    """
    here.check_ids([*chosen.disable, *chosen.enable, *chosen.only])
    both = sorted(set(chosen.disable) & {*chosen.enable, *chosen.only})
    if both:
        raise Refusal(f"--disable {both[0]} contradicts --enable or --only of the same: leave out one")
    refuse_required(here, chosen.disable, "leave out --disable")
    changes = {"VLLM_ASCEND_AUTOPATCH": "1"}
    lists = {
        "VLLM_ASCEND_PATCH_DISABLE": (chosen.disable, chosen.enable),
        "VLLM_ASCEND_PATCH_ENABLE": (chosen.enable, chosen.disable),
    }
    for variable, (added, removed) in lists.items():
        given = [word for word in here.environ.get(variable, "").replace(",", " ").split() if word not in removed]
        if added or (removed and variable in here.environ):
            changes[variable] = ",".join(dict.fromkeys([*given, *added]))
    if chosen.only:
        changes["VLLM_ASCEND_PATCH_ONLY"] = ",".join(_with_what_it_takes(here, chosen.only))
    if chosen.strict:
        changes["VLLM_ASCEND_PATCH_STRICT"] = "1"
    if chosen.device is not None:
        if chosen.device not in ("npu", "host", "auto"):
            raise Refusal(f"--device {chosen.device!r} is unknown: use npu, host or auto")
        changes["ASCEND_PATCH_DEVICE"] = chosen.device
    return changes


def _check_in_force(child: Workspace, chosen: Switches) -> None:
    """Refuse when the child would not see what the options say; a switch that does nothing is worse than none.

    Raises:
        SettingsError: the resulting settings contradict each other.
        Refusal: a patch named with --enable would stay off all the same.
    """
    from ascend_patch.cli.describe import on_or_off

    for patch_id in chosen.enable:
        on, reason = on_or_off(child, child.registry[patch_id])
        if not on:
            raise Refusal(f"{patch_id} would stay off, {reason}: change that, or name it with --only")
    child.settings  # noqa: B018  (validated when it is read, also without --enable)


def _with_what_it_takes(here: Workspace, only: list[str]) -> list[str]:
    required = [patch.id for patch in here.registry if patch.required]
    kept = {member for patch_id in (*only, *required) for member in here.registry.feature(patch_id)}
    return [patch_id for patch_id in here.registry.ids if patch_id in kept]


def _describe(child: Workspace, command: list[str], changes: Mapping[str, str], as_json: bool) -> None:
    from ascend_patch.cli.describe import state_word
    from ascend_patch.environment import decide_device

    device = decide_device(child.settings.device)
    plan = child.plan(child.tree())
    problems = plan.problems()
    if as_json:
        output.as_json(
            {
                "command": command,
                "environment": dict(changes),
                "device": device.device,
                "device_reason": device.reason,
                "package": child.package,
                "version": plan.version,
                "patches": [
                    {
                        "id": item.patch.id,
                        "required": item.patch.required,
                        "state": item.state.value,
                        "reason": item.reason,
                    }
                    for item in plan
                ],
                "problems": problems,
            }
        )
    else:
        output.field("command", shlex.join(command))
        for name, value in changes.items():
            output.field("environment", f"{name}={value}")
        output.field("device", f"{device.device or 'none, the overlay stays inactive'}: {device.reason}")
        output.field(child.package, plan.version)
        output.table(
            ("id", "kind", "state", "reason"),
            [
                (
                    item.patch.id,
                    output.state_cell("required" if item.patch.required else "optional"),
                    output.state_cell(state_word(item.state.value, item.unneeded)),
                    item.reason,
                )
                for item in plan
            ],
            keep=("id", "kind", "state"),
        )
        for line in problems:
            output.complain(line)
    if problems:
        raise typer.Exit(FINDING)


def _execute(child: Workspace, command: list[str]) -> None:
    from ascend_patch.environment import decide_device

    decision = decide_device(child.settings.device)
    if decision.device is None:
        output.complain(f"warning: the overlay will stay inactive: {decision.reason}; --device host runs on the CPU")
    program = shutil.which(command[0], path=child.environ.get("PATH"))
    if program is None:
        raise Refusal(f"{command[0]}: command not found", NOT_FOUND)
    os.execve(program, command, dict(child.environ))
