"""``ascend-patch show``: everything there is to know about one patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.choices import patch_ids
from ascend_patch.cli.workspace import Workspace

if TYPE_CHECKING:
    from ascend_patch.engine.plan import Decision
    from ascend_patch.engine.sources import SourceTree
    from ascend_patch.engine.vocabulary import Patch

HELP = """Explain one patch: why it exists, what it changes in which versions, its contract, and when it can go."""

EXAMPLES = """\b
Examples:
  ascend-patch show attention.paged
  ascend-patch show attention.paged --json | jq '.contract'

\b
JSON keys: those of 'list --json' for one patch, and required_by[], taken_for, outgrown[] (signs
that upstream no longer needs it), findings[]: target, problem, text, against;
contract{target}: kind, signature, file, overridden_by[], aliased_in[], uses{function: what it does with a kernel
that is replaced[]}, kernels[] (that a replaced function launches) (null: no contract for the installed version)."""


def show(
    context: typer.Context,
    patch_id: Annotated[str, typer.Argument(metavar="ID", help="The patch.", autocompletion=patch_ids)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain one patch."""
    from ascend_patch.cli.describe import patch_facts

    here = workspace.of(context)
    patch = here.patch(patch_id)
    tree = here.installed_tree()
    plan = here.plan(tree) if tree is not None else None
    decision = plan.decisions[patch.id] if plan is not None else None
    facts = patch_facts(here, patch, plan)
    facts["required_by"] = list(here.registry.dependents(patch.id))
    facts["taken_for"] = plan.standing.as_dict() if plan is not None and plan.standing.reason else None
    facts["findings"] = _findings(decision)
    facts["outgrown"] = _outgrown(decision, tree)
    facts["contract"] = _contract(here, patch, decision, tree)
    if as_json:
        output.as_json(facts)
    else:
        _print(here, patch, facts, tree)


def _findings(decision: Decision | None) -> list[dict[str, str]]:
    if decision is None:
        return []
    return [
        {"target": item.target, "problem": item.problem, "text": item.text, "against": item.against}
        for item in decision.findings
    ]


def _outgrown(decision: Decision | None, tree: SourceTree | None) -> list[str]:
    """Signs in the installed sources that upstream no longer needs the patch."""
    from ascend_patch.engine.expiry import signs

    if tree is None or decision is None or decision.variant is None or decision.unneeded:
        return []
    return signs(decision.patch, tree, decision.variant, decision.findings)


def _contract(
    here: Workspace, patch: Patch, decision: Decision | None, tree: SourceTree | None
) -> dict[str, Any] | None:
    known = here.store.get(tree.version) if tree is not None else None
    if known is None or decision is None or decision.variant is None:
        return None
    contract = {}
    for rewrite in decision.variant.rewrites:
        entry = known.targets.get(rewrite.target)
        if entry is not None:
            contract[rewrite.target] = {
                "kind": entry.kind,
                "signature": entry.signature,
                "file": entry.file,
                "overridden_by": list(entry.overridden_by),
                "aliased_in": list(entry.aliased_in),
                "uses": {site: list(uses) for site, uses in entry.uses.items()},
                "kernels": list(entry.kernels),
            }
    return contract


def _print(here: Workspace, patch: Patch, facts: dict[str, Any], tree: SourceTree | None) -> None:
    from ascend_patch.cli.describe import expiry_sentence, sentence, state_word

    output.heading(patch.id)
    output.field("why", patch.why)
    output.field("kind", "required: the engine does not start without it" if patch.required else "optional")
    output.field("traced", "yes: runs inside torch.compile, plain functions only" if patch.traced else "no")
    output.field("switch", ("on" if facts["on"] else "off") + _because(facts["on_reason"]))
    against = f"{here.package} {tree.version}" if tree is not None else f"no {here.package} installed"
    output.field(
        "state", f"{state_word(facts['state'], facts['unneeded'])} ({against})" + _because(facts["state_reason"])
    )
    if facts["taken_for"]:
        output.field("taken for", f"{facts['taken_for']['version']}: {facts['taken_for']['reason']}")
    for key, label in (("requires", "requires"), ("required_by", "required by"), ("conflicts", "conflicts with")):
        if facts[key]:
            output.field(label, ", ".join(facts[key]))
    output.field("upstream", patch.upstream or "-")
    output.field("unnecessary when", patch.unnecessary_when or "-")
    for sign in patch.expires:
        output.field("a sign of that", expiry_sentence(sign))
    if patch.no_sign:
        output.field("no sign of that", patch.no_sign)
    for line in facts["outgrown"]:
        output.field("seems outgrown", line)
    output.field("declared in", patch.module)
    for number, variant in enumerate(patch.variants, 1):
        chosen = " (this one fits)" if variant.versions == facts["variant"] else ""
        needs = f"; needs {', '.join(variant.needs)}" if variant.needs else ""
        output.say()
        output.heading(f"v{number}  {here.package} {variant.versions}{needs}{chosen}")
        if variant.unneeded:
            output.say(f"  not needed: {variant.unneeded}")
        for rewrite in variant.rewrites:
            output.say(f"  {sentence(rewrite)}")
    _print_contract(facts, tree)


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _print_contract(facts: dict[str, Any], tree: SourceTree | None) -> None:
    if tree is None or facts["variant"] is None or facts["unneeded"]:
        return
    output.say()
    if facts["contract"] is None:
        output.say(f"no contract for {tree.version}: 'ascend-patch verify --update' writes it", "yellow")
        return
    output.heading(f"contract of {tree.version}")
    problems = {item["target"]: item for item in facts["findings"]}
    for target, entry in facts["contract"].items():
        output.say(f"  {target}")
        output.say(f"    {entry['kind']} ({entry['signature']}) in {entry['file']}")
        if entry["overridden_by"]:
            output.say(f"    overridden by {', '.join(entry['overridden_by'])}")
        if entry["aliased_in"]:
            output.say(f"    also bound in {', '.join(entry['aliased_in'])}")
        for site, uses in entry["uses"].items():
            output.say(f"    used in {site}: {', '.join(uses)}")
        if entry["kernels"]:
            output.say(f"    launches {', '.join(entry['kernels'])}")
        found = problems.get(target)
        if found is not None and found["problem"]:
            output.say(f"    {found['problem']}: {found['text']}", "red")
