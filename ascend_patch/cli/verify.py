"""``ascend-patch verify``: do the patches still fit the sources of a version, or of many?"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ascend_patch.cli import output, workspace
from ascend_patch.cli.choices import patch_ids
from ascend_patch.cli.errors import FINDING, Refusal
from ascend_patch.cli.workspace import Workspace

if TYPE_CHECKING:
    from ascend_patch.cli.inspection import Inspection, Updated
    from ascend_patch.engine.plan import Decision, Finding
    from ascend_patch.engine.sources import SourceTree

HELP = """Compare every patch with the sources of a vLLM, without importing it.

\b
All patches are checked, also those that are switched off. Sources of a released version are
downloaded once, from the index that pip uses, and kept in ~/.cache/ascend_patch/sources.
  verify            one version: every patch, and what changed where it does not fit
  verify --all      every released version in the ranges of the patches, as a table
  verify --todo     what is left to do until the patches cover a version
  verify --explain  what upstream changed in the targets of a patch between two versions

\b
Exit code 1: a required patch does not apply (with --strict: any patch drifted or has no contract),
with --all: in a version that the patches name; with --todo: something is left to do.
Exit code 2: no patch covers this version at all, or its sources cannot be had.
"""

EXAMPLES = """\b
Examples:
  ascend-patch verify                                      the installed vLLM
  ascend-patch verify --vllm 0.23.0                        a release, downloaded if need be
  ascend-patch verify --vllm vllm-0.32.0.tar.gz            an sdist
  ascend-patch verify --vllm vllm-0.32.0-...-linux.whl     a wheel
  ascend-patch verify --vllm ../vllm --as 0.32.0           a checkout, taken for 0.32.0
  ascend-patch verify --all                                patches x versions
  ascend-patch verify --all --also 0.11.0,0.9.1 --offline  and two more; only what was downloaded before
  ascend-patch verify --all --update                       write patches/contracts/VERSION.json for each
  ascend-patch verify --vllm 0.33.0 --todo                 steps to support a new version
  ascend-patch verify --vllm 0.33.0 --todo --extend        and widen the ranges that fit as they are
  ascend-patch verify --explain worker.streams --from 0.29.0 --to 0.32.0

\b
Cells of --all: ok or v2 (it applies, by its second variant), "?" behind it (a target has no
contract), "*" behind it (upstream seems to have outgrown the patch), drift (a target changed),
missing (a target is gone), unfit (our function does not take upstream's arguments), held (one that
belongs to it does not apply), no (no variant covers the version), - (not needed).

\b
JSON keys: package, version, origin, source (installed, folder, wheel, sdist), inside (a patch names
this version), taken_for (null, or version and reason: see VLLM_ASCEND_PATCH_ASSUME_VERSION), contract
(true: there is one for exactly this version), ok, applied, not_needed[], short[] (required patches
that do not apply or do not fit), misfits[]: id, problems[]; patches[]: id, required, state, unneeded,
reason, variant, number (of the variant), targets[]: target, problem ("" = as expected), text,
against, now_in[]; unnecessary[]: id, signs[]; overridden[] (subclasses that escape a patch) and
launched[] (kernels that other modules launch now): target, text; updated (what --update did, or
null), accepted[] (what would be drift without that contract).
With --all: package, index (false: only the cache was looked at), ok, versions[] with the same keys and
cells{id}. With --explain: id, from, to, targets[]: target, state, changes[], diff. With --todo:
package, version, done, patches[]: id, kind (nothing, contract, extend, drift, decide), text, edits[]:
place, old, new, commands[]; overridden[], launched[], unnecessary[], extended[] (places), then[]."""


def verify(
    context: typer.Context,
    vllm: Annotated[
        str | None,
        typer.Option(
            "--vllm", metavar="VERSION|PATH", help="A release, or a checkout, sdist, wheel or package folder instead."
        ),
    ] = None,
    taken_for: Annotated[
        str | None, typer.Option("--as", metavar="VERSION", help="Treat the sources as this version.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every released version in the ranges of the patches.")] = False,
    also: Annotated[
        str, typer.Option("--also", metavar="VERSIONS", help="With --all: further versions, separated by commas.")
    ] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Only sources that were downloaded before.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Any drift and any missing contract counts.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Write the contract file of each version first.")] = False,
    todo: Annotated[bool, typer.Option("--todo", help="Show what is left to do for this version.")] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="With --todo: widen the ranges of patches whose targets are as expected.")
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="ID", help="What upstream changed for this patch.", autocompletion=patch_ids),
    ] = None,
    old: Annotated[
        str | None, typer.Option("--from", metavar="VERSION|PATH", help="With --explain: the earlier sources.")
    ] = None,
    new: Annotated[
        str | None,
        typer.Option("--to", metavar="VERSION|PATH", help="With --explain: the later ones (default: the installed)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the patches with sources."""
    from ascend_patch.cli import explanation, inspection, matrix, tasks

    here = workspace.of(context)
    mode = _mode({"--all": every, "--todo": todo, "--explain": explain is not None})
    given = {"--vllm": vllm, "--as": taken_for, "--also": also, "--strict": strict, "--update": update}
    given |= {"--extend": extend}
    _refuse_idle(mode, given | {"--from": old, "--to": new})
    if update and taken_for:
        raise Refusal("--update would write the contract of a version these sources are not: leave out --as")
    _check_version(taken_for, "--as")
    if update:
        here.store = here.store.readable()  # what cannot be read is what this writes anew
        if here.store.unreadable and not every:
            damaged = ", ".join(here.store.unreadable)
            output.complain(
                f"the contracts of {damaged} cannot be read, and nothing is compared with them: "
                "'ascend-patch verify --all --update' writes them anew"
            )
    if explain is not None:
        if old is None:
            raise Refusal("--explain compares two versions: name the earlier one with --from VERSION")
        explanation.explain(here, explain, old, new, offline=offline, as_json=as_json)
        return
    if every:
        ok = matrix.verify_all(here, also=also, offline=offline, strict=strict, update=update, as_json=as_json)
    elif todo:
        ok = tasks.todo(here, vllm, offline=offline, extend=extend, as_json=as_json)
    else:
        tree = inspection.open_sources(here, vllm, announce=output.complain, taken_for=taken_for, offline=offline)
        standing = None if vllm or taken_for else here.standing
        inspect = partial(inspection.inspect, here, tree, strict=strict, elsewhere=bool(vllm), standing=standing)
        sources = _options(vllm, taken_for)
        ok = _verify_one(here, inspect, strict, update, sources, as_json)
    if not ok:
        raise typer.Exit(FINDING)


BELONGS = {
    "--vllm": ("", "--todo"),
    "--as": ("",),
    "--also": ("--all",),
    "--strict": ("", "--all"),
    "--update": ("", "--all"),
    "--extend": ("--todo",),
    "--from": ("--explain",),
    "--to": ("--explain",),
}
"""What each option goes with; '' is none of --all, --todo and --explain."""


def _mode(modes: dict[str, bool]) -> str:
    chosen = [mode for mode, on in modes.items() if on]
    if len(chosen) > 1:
        raise Refusal(f"{' and '.join(chosen)} are different questions: leave out one")
    return chosen[0] if chosen else ""


def _refuse_idle(mode: str, given: Mapping[str, object]) -> None:
    """Refuse an option that would be left out silently."""
    for option, value in given.items():
        if value and mode not in BELONGS[option]:
            where = " or ".join(name or "a single version" for name in BELONGS[option])
            raise Refusal(f"{option} goes with {where}: see 'ascend-patch verify --help'")


def _check_version(text: str | None, option: str) -> None:
    from ascend_patch.engine.versions import is_version

    if text and not is_version(text):
        raise Refusal(f"{option} {text!r} is no version: write it like 0.32.0")


def _options(vllm: str | None, taken_for: str | None) -> str:
    """How another command looks at the same sources."""
    given = {"--vllm": vllm, "--as": taken_for}
    return "".join(f" {option} {shlex.quote(value)}" for option, value in given.items() if value)


def _verify_one(
    here: Workspace, inspect: Callable[[], Inspection], strict: bool, update: bool, sources: str, as_json: bool
) -> bool:
    from ascend_patch.cli import inspection
    from ascend_patch.engine.contract_building import check_usage

    found = inspect()
    if not found.inside and not found.plan.standing.reason:
        raise Refusal(_unsupported(here, found.tree))
    elsewhere = check_usage(found.tree, here.registry, here.store, found.plan.standing.version)
    written = None
    if update:
        if not found.inside:
            raise Refusal(
                f"no patch names {here.package} {found.version}, so it has no contract to write: "
                "extend the ranges first, 'ascend-patch verify --todo' shows which"
            )
        written = inspection.update(here, found.tree)
        found = inspect()
    if as_json:
        output.as_json(
            {
                "package": here.package,
                **found.facts(),
                **inspection.usage_facts(elsewhere),
                **inspection.updated_facts(written),
            }
        )
    else:
        _print(here, found, elsewhere, written, sources)
    return found.ok and not (strict and elsewhere)


def _unsupported(here: Workspace, tree: SourceTree) -> str:
    from ascend_patch.cli.describe import merged
    from ascend_patch.cli.inspection import ranges

    return (
        f"no patch covers {here.package} {tree.version} ({tree.origin}), and its sources are like those of no known "
        f"version: supported are {' and '.join(merged(ranges(here.registry)))}; "
        "'--as VERSION' compares with the patches of a supported one"
    )


def _print(
    here: Workspace, found: Inspection, elsewhere: tuple[Finding, ...], written: Updated | None, sources: str
) -> None:
    from ascend_patch.cli.inspection import print_updated

    if written:
        print_updated(written)
    output.say(f"{here.package} {found.version}, {found.tree.kind}: {found.tree.origin}", "bold")
    if found.plan.standing.reason:
        output.say(found.plan.standing.reason, "yellow")
    output.table(
        ("id", "kind", "state", "variant", "targets", "contract", "what changed"),
        [
            (
                decision.patch.id,
                output.state_cell("required" if decision.patch.required else "optional"),
                output.state_cell(_state(decision, found)),
                decision.variant.versions if decision.variant is not None else "-",
                str(len(decision.findings)) if decision.findings else "-",
                _against(decision),
                _remark(decision, found),
            )
            for decision in found.plan
        ],
        keep=("id", "kind", "state"),
        spare=("variant", "targets", "contract"),
    )
    for target, modules in found.moved.items():
        if modules:
            output.say(f"{target} is gone; its name is now defined in {', '.join(modules)}", "yellow")
    for finding in elsewhere:
        output.say(f"{finding.target}: {finding.text}", "yellow")
    if found.unnecessary:
        output.say(
            f"upstream seems to have outgrown {', '.join(found.unnecessary)}: try {here.package} {found.version} "
            "without, and end the range there",
            "yellow",
        )
    if found.ok:
        output.say(f"{found.summary}; nothing required is missing", "green")
    else:
        output.say(f"{found.summary}; {_short(found)}", "red")
        for line in found.plan.problems(sources):
            output.complain(line)
        for id, problems in found.misfits.items():
            output.complain(f"patch {id} does not fit {here.package} {found.version}: {'; '.join(problems)}")


def _state(decision: Decision, found: Inspection) -> str:
    from ascend_patch.cli.describe import state_word

    return "unfit" if decision.patch.id in found.misfits else state_word(decision.state.value, decision.unneeded)


def _short(found: Inspection) -> str:
    if found.short:
        return f"{len(found.short)} required ones fall short: {', '.join(found.short)}"
    return "none that is required falls short, but --strict counts every drift and every missing contract"


def _against(decision: Decision) -> str:
    return ", ".join(sorted({item.against for item in decision.findings if item.against})) or "-"


def _remark(decision: Decision, found: Inspection) -> str:
    parts = [decision.reason] if decision.reason else []
    if not parts and decision.unchecked:
        parts.append(f"no contract for {', '.join(decision.unchecked)}")
    parts += found.misfits.get(decision.patch.id, [])
    if decision.patch.id in found.unnecessary:
        parts.append(f"unnecessary? {'; '.join(found.unnecessary[decision.patch.id])}")
    return "; ".join(parts)
