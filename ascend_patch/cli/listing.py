"""``ascend-patch list``: every patch, one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.errors import Refusal, suggestion
from ascend_patch.cli.workspace import Workspace

if TYPE_CHECKING:
    from ascend_patch.engine.plan import Plan

HELP = """List every patch with its state for the installed vLLM.

\b
The state is a prediction from the sources; nothing is imported or changed:
applies, not-needed (this version works without it), skipped (no variant for this version, or
something it requires does not apply), disabled, drifted (upstream changed), or - without an
installed vLLM.
"""

EXAMPLES = """\b
Examples:
  ascend-patch list
  ascend-patch list --area attention
  ascend-patch list --state drifted --state skipped
  ascend-patch list --json | jq -r '.patches[] | select(.required) | .id'

\b
JSON keys: package, version (null: not installed), taken_for (null, or version and reason),
patches[]: id, area, why, required, traced, on, on_reason, state, unneeded, state_reason,
variant, variants[], requires[], conflicts[], upstream, unnecessary_when, expires[],
no_sign, module.
In JSON a patch that would be applied has the state "pending", one that is not needed "skipped"."""

STATES = ("applies", "not-needed", "skipped", "disabled", "drifted", "failed", "rolled-back", "-")


def list_patches(
    context: typer.Context,
    area: Annotated[list[str] | None, typer.Option("--area", "-a", help="Only this area; can be repeated.")] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help=f"Only this state: {', '.join(STATES)}. Can be repeated.")
    ] = None,
    required: Annotated[
        bool | None, typer.Option("--required/--optional", help="Only required or only optional patches.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every patch."""
    here = workspace.of(context)
    from ascend_patch.cli.describe import patch_facts, state_word

    _check(area or [], sorted({patch.area for patch in here.registry}), "area")
    wanted_states = ["applies" if word == "pending" else word for word in state or []]
    _check(wanted_states, list(STATES), "state")
    tree = here.installed_tree()
    plan = here.plan(tree) if tree is not None else None
    rows = []
    for patch_id in here.registry.ids:
        facts = patch_facts(here, here.registry[patch_id], plan)
        if area and facts["area"] not in area:
            continue
        if wanted_states and state_word(facts["state"], facts["unneeded"]) not in wanted_states:
            continue
        if required is not None and facts["required"] != required:
            continue
        rows.append(facts)
    if as_json:
        output.as_json(
            {
                "package": here.package,
                "version": plan.version if plan is not None else None,
                "taken_for": plan.standing.as_dict() if plan is not None and plan.standing.reason else None,
                "patches": rows,
            }
        )
        return
    _print(here, rows, plan)


def _check(words: list[str], known: list[str], what: str) -> None:
    for word in words:
        if word not in known:
            raise Refusal(f"unknown {what} {word!r}: {suggestion(word, known, 'use ' + ', '.join(known))}")


def _print(here: Workspace, rows: list[dict[str, Any]], plan: Plan | None) -> None:
    from ascend_patch.cli.describe import state_word

    output.table(
        ("id", "kind", "switch", "state", "variants", "note"),
        [
            (
                facts["id"],
                output.state_cell("required" if facts["required"] else "optional"),
                output.state_cell("on" if facts["on"] else "off"),
                output.state_cell(state_word(facts["state"], facts["unneeded"])),
                str(len(facts["variants"])),
                facts["on_reason"] or facts["state_reason"] or facts["why"],
            )
            for facts in rows
        ],
        keep=("id", "kind", "switch", "state"),
        spare=("variants", "switch"),
    )
    if output.on_terminal():
        against = f"{here.package} {plan.version}" if plan else f"no {here.package} is installed: states are unknown"
        output.say(f"{len(rows)} patches; {against}", "dim")
    if plan is not None and plan.standing.reason:
        output.complain(plan.standing.reason)
