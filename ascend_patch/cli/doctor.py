"""``ascend-patch doctor``: what is installed, and whether it fits together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.errors import FINDING

if TYPE_CHECKING:
    from ascend_patch.cli.findings import Finding, Machine

HELP = """Look at everything the overlay needs and say whether it fits together.

\b
Neither vLLM nor torch is imported. Each finding that is not ok comes with its remedy.
Exit code 1: something does not work (level error). Warnings alone exit with 0.
"""

EXAMPLES = """\b
Examples:
  ascend-patch doctor
  ASCEND_PATCH_DEVICE=host ascend-patch doctor
  ascend-patch doctor --json | jq '.findings[] | select(.level != "ok")'

\b
JSON keys: ok (no errors), device (npu, host, null), findings[]: check, level
(ok, warning, error), message, remedy.
Checks: python, vllm, torch, torch-npu, vllm-ascend, triton, device, cann, soc, driver,
devices, hostcann, bootstrap, settings, last run, disk, shared memory."""

SYMBOLS = {"ok": "ok", "warning": "warning", "error": "error"}


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at everything the overlay needs."""
    from ascend_patch.cli.findings import Machine

    given = context.find_root().obj
    machine = given if isinstance(given, Machine) else Machine(workspace.of(context))
    findings = list(examine(machine))
    ok = all(finding.level != "error" for finding in findings)
    if as_json:
        output.as_json({"ok": ok, "device": machine.device.device, "findings": [item.as_dict() for item in findings]})
    else:
        _print(findings)
    if not ok:
        raise typer.Exit(FINDING)


def checks() -> tuple[Callable[[Machine], Iterator[Finding]], ...]:
    """All checks, in the order in which they are shown."""
    from ascend_patch.cli import checks_machine, checks_overlay, checks_software

    return (
        checks_software.python,
        checks_software.vllm,
        checks_software.torch,
        checks_software.plugin,
        checks_software.triton,
        checks_machine.device,
        checks_machine.cann,
        checks_machine.soc,
        checks_machine.driver,
        checks_machine.hostcann,
        checks_overlay.bootstrap,
        checks_overlay.settings,
        checks_overlay.last_run,
        checks_machine.disk,
    )


def examine(machine: Machine) -> Iterator[Finding]:
    """All findings about a machine."""
    for check in checks():
        yield from check(machine)


def _print(findings: list[Finding]) -> None:
    rows = []
    for item in findings:
        text = f"{item.message}\n-> {item.remedy}" if item.remedy else item.message
        rows.append((output.state_cell(item.level), item.check, text))
    output.table(("level", "check", "finding"), rows, keep=("level", "check"))
    errors = sum(item.level == "error" for item in findings)
    warnings = sum(item.level == "warning" for item in findings)
    if output.on_terminal():
        style = "red" if errors else "yellow" if warnings else "green"
        output.say(f"{len(findings)} findings: {errors} errors, {warnings} warnings", style)
