"""``ascend-patch verify``: do the patches still fit the sources of a version?"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.errors import FINDING, Refusal
from ascend_patch.cli.workspace import Workspace

if TYPE_CHECKING:
    from ascend_patch.engine.contracts import ContractSet
    from ascend_patch.engine.planning import Decision, Plan
    from ascend_patch.engine.registry import Registry
    from ascend_patch.engine.sources import SourceTree
    from ascend_patch.engine.vocabulary import Patch, Variant

Moved = dict[str, tuple[str, ...]]
"""Targets that are gone, and the modules that define their name now."""

HELP = """Compare every patch with the sources of a vLLM, without importing it.

\b
All patches are checked, also those that are switched off.
Exit code 1: a required patch does not apply (with --strict: any patch drifted or has no contract).
Exit code 2: no patch covers this version at all.
"""

EXAMPLES = """\b
Examples:
  ascend-patch verify                                      the installed vLLM
  ascend-patch verify --vllm vllm-0.32.0.tar.gz            an sdist
  ascend-patch verify --vllm vllm-0.32.0-...-linux.whl     a wheel
  ascend-patch verify --vllm ../vllm --as 0.32.0           a checkout, taken for 0.32.0
  ascend-patch verify --vllm vllm-0.32.1.tar.gz --update   write patches/contracts/0.32.1.json

\b
JSON keys: package, version, origin, source (installed, folder, wheel, sdist), contract
(true: there is one for exactly this version), ok, patches[]: id, required, state, reason,
variant, targets[]: target, problem ("" = as expected), text, against, now_in[]; updated (the file
written by --update, or null)."""


def verify(
    context: typer.Context,
    vllm: Annotated[
        str | None,
        typer.Option("--vllm", metavar="PATH", help="A checkout, sdist, wheel or package folder instead."),
    ] = None,
    taken_for: Annotated[
        str | None, typer.Option("--as", metavar="VERSION", help="Treat the sources as this version.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Any drift and any missing contract counts.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Write the contract file of this version first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the patches with sources."""
    here = workspace.of(context)
    if update and taken_for:
        raise Refusal("--update would write the contract of a version these sources are not: leave out --as")
    if taken_for:
        from ascend_patch.engine.versions import is_version

        if not is_version(taken_for):
            raise Refusal(f"--as {taken_for!r} is no version: write it like 0.32.0")
    tree = here.tree(vllm, version=taken_for)
    registry = _each_by_itself(here.registry, ignore_needs=vllm is not None)
    _refuse_unsupported(here, registry, tree)
    written = _update(here, registry, tree) if update else None
    plan = _plan(here, registry, tree, strict)
    ok = not plan.problems()
    moved = _moved(plan, tree)
    if as_json:
        output.as_json(_facts(here, plan, tree, ok, written, moved))
    else:
        _print(here, plan, tree, ok, written, moved)
    if not ok:
        raise typer.Exit(FINDING)


def _each_by_itself(registry: Registry, ignore_needs: bool) -> Registry:
    """The registry without conflicts, because all patches are on here whether or not they can be on together.

    With `ignore_needs` also without what variants need of this machine: the sources come from elsewhere.
    """
    from ascend_patch.engine.registry import Registry

    def variants(patch: Patch) -> tuple[Variant, ...]:
        if not ignore_needs:
            return patch.variants
        return tuple(dataclasses.replace(variant, needs=()) for variant in patch.variants)

    return Registry(
        {patch.id: dataclasses.replace(patch, conflicts=(), variants=variants(patch)) for patch in registry}
    )


def _refuse_unsupported(here: Workspace, registry: Registry, tree: SourceTree) -> None:
    from ascend_patch.engine.versions import fits

    ranges = list(dict.fromkeys(variant.versions for patch in registry for variant in patch.variants))
    if ranges and not any(fits(tree.version, text) for text in ranges):
        raise Refusal(
            f"no patch covers {here.package} {tree.version} ({tree.origin}): supported are {' and '.join(ranges)}; "
            "'--as VERSION' compares with the patches of a supported one"
        )


def _plan(here: Workspace, registry: Registry, tree: SourceTree, strict: bool) -> Plan:
    from ascend_patch.engine.planning import Selection, make_plan

    return make_plan(registry, tree, here.store, Selection(enable=frozenset(registry.ids), strict=strict))


def _update(here: Workspace, registry: Registry, tree: SourceTree) -> str:
    """Write the contract file and return a sentence about it."""
    from ascend_patch.engine.contract_building import build
    from ascend_patch.engine.contracts import ContractStore

    new = build(tree, registry)
    path = here.contracts_folder / f"{new.version}.json"
    old = here.store.get(new.version)
    if old == new:
        return f"{path} is up to date ({len(new.targets)} targets)"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.save(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    here.store = ContractStore(here.contracts_folder)
    return f"wrote {path} ({_changes(old, new)})"


def _changes(old: ContractSet | None, new: ContractSet) -> str:
    if old is None:
        return f"{len(new.targets)} targets"
    added = new.targets.keys() - old.targets.keys()
    removed = old.targets.keys() - new.targets.keys()
    changed = [name for name in new.targets.keys() & old.targets.keys() if new.targets[name] != old.targets[name]]
    return f"{len(new.targets)} targets: {len(added)} added, {len(removed)} removed, {len(changed)} changed"


def _moved(plan: Plan, tree: SourceTree) -> Moved:
    """For each target that is gone: the modules that define its name now. Reads all sources, so only if need be."""
    from ascend_patch.engine.contract_checking import find_moved
    from ascend_patch.engine.vocabulary import Target

    gone = {item.target for decision in plan for item in decision.findings if item.problem == "missing"}
    return {target: find_moved(tree, Target.parse(target)) for target in sorted(gone)}


def _facts(
    here: Workspace, plan: Plan, tree: SourceTree, ok: bool, written: str | None, moved: Moved
) -> dict[str, Any]:
    return {
        "package": here.package,
        "version": tree.version,
        "origin": tree.origin,
        "source": tree.kind,
        "contract": here.store.get(tree.version) is not None,
        "ok": ok,
        "patches": [_decision_facts(decision, moved) for decision in plan],
        "updated": written,
    }


def _decision_facts(decision: Decision, moved: Moved) -> dict[str, Any]:
    return {
        "id": decision.patch.id,
        "required": decision.patch.required,
        "state": decision.state.value,
        "reason": decision.reason,
        "variant": decision.variant.versions if decision.variant is not None else None,
        "targets": [
            {
                "target": item.target,
                "problem": item.problem,
                "text": item.text,
                "against": item.against,
                "now_in": list(moved.get(item.target, ())),
            }
            for item in decision.findings
        ],
    }


def _print(here: Workspace, plan: Plan, tree: SourceTree, ok: bool, written: str | None, moved: Moved) -> None:
    from ascend_patch.cli.describe import predicted

    if written:
        output.say(written)
    output.say(f"{here.package} {tree.version}, {tree.kind}: {tree.origin}", "bold")
    output.table(
        ("id", "kind", "state", "targets", "contract", "what changed"),
        [
            (
                decision.patch.id,
                output.state_cell("required" if decision.patch.required else "optional"),
                output.state_cell(predicted(decision.state.value)),
                str(len(decision.findings)) if decision.findings else "-",
                _against(decision),
                _remark(decision),
            )
            for decision in plan
        ],
        keep=("id", "kind", "state"),
        spare=("targets", "contract"),
    )
    for target, modules in moved.items():
        if modules:
            output.say(f"{target} is gone; its name is now defined in {', '.join(modules)}", "yellow")
    accepted = len(plan.accepted)
    total = len(plan.decisions)
    if ok:
        output.say(f"{accepted} of {total} patches apply; nothing required is missing", "green")
    else:
        for line in plan.problems():
            output.complain(line)


def _against(decision: Decision) -> str:
    return ", ".join(sorted({item.against for item in decision.findings if item.against})) or "-"


def _remark(decision: Decision) -> str:
    if decision.reason:
        return decision.reason
    return f"no contract for {', '.join(decision.unchecked)}" if decision.unchecked else ""
