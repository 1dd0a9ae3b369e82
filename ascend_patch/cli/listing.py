"""``ascend-patch list``: every patch, one line each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.errors import Refusal, suggestion
from ascend_patch.cli.workspace import Workspace

HELP = """List every patch with its state for the installed vLLM.

\b
The state is a prediction from the sources; nothing is imported or changed:
applies, skipped (no variant for this version), disabled, drifted (upstream changed),
rolled-back (something it requires does not apply), or - without an installed vLLM.
"""

EXAMPLES = """\b
Examples:
  ascend-patch list
  ascend-patch list --area attention
  ascend-patch list --state drifted --state skipped
  ascend-patch list --json | jq -r '.patches[] | select(.required) | .id'

\b
JSON keys: package, version (null: not installed), patches[]: id, area, why, required,
traced, on, on_reason, state, state_reason, variant, variants[], requires[], conflicts[],
upstream, unnecessary_when, module.
In JSON a patch that would be applied has the state "pending"."""

STATES = ("applies", "skipped", "disabled", "drifted", "failed", "rolled-back", "-")


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
    from ascend_patch.cli.describe import patch_facts, predicted

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
        if wanted_states and predicted(facts["state"]) not in wanted_states:
            continue
        if required is not None and facts["required"] != required:
            continue
        rows.append(facts)
    if as_json:
        version = tree.version if tree is not None else None
        output.as_json({"package": here.package, "version": version, "patches": rows})
        return
    _print(here, rows, tree.version if tree is not None else None)


def _check(words: list[str], known: list[str], what: str) -> None:
    for word in words:
        if word not in known:
            raise Refusal(f"unknown {what} {word!r}: {suggestion(word, known, 'use ' + ', '.join(known))}")


def _print(here: Workspace, rows: list[dict[str, Any]], version: str | None) -> None:
    from ascend_patch.cli.describe import predicted

    output.table(
        ("id", "kind", "switch", "state", "variants", "note"),
        [
            (
                facts["id"],
                output.state_cell("required" if facts["required"] else "optional"),
                output.state_cell("on" if facts["on"] else "off"),
                output.state_cell(predicted(facts["state"])),
                str(len(facts["variants"])),
                facts["on_reason"] or facts["state_reason"] or facts["why"],
            )
            for facts in rows
        ],
        keep=("id", "kind", "switch", "state"),
        spare=("variants", "switch"),
    )
    if output.on_terminal():
        against = f"{here.package} {version}" if version else f"no {here.package} is installed: states are unknown"
        output.say(f"{len(rows)} patches; {against}", "dim")
