"""``ascend-patch verify --explain``: what upstream changed in the targets of a patch between two versions."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ascend_patch.cli import output
from ascend_patch.cli.inspection import open_sources
from ascend_patch.cli.workspace import Workspace
from ascend_patch.engine.contract_building import Usage, scan_package
from ascend_patch.engine.contract_checking import describe, find_moved
from ascend_patch.engine.errors import RewriteError
from ascend_patch.engine.launches import kernel_changes, kernels_of, use_changes
from ascend_patch.engine.signatures import changes
from ascend_patch.engine.sources import SourceTree
from ascend_patch.engine.syntax import Definition, count_sites, find_definition, import_origin
from ascend_patch.engine.versions import fits
from ascend_patch.engine.vocabulary import Patch, Replace, Retarget, Rewrite, Target

if TYPE_CHECKING:
    from ascend_patch.engine.contract_checking import Description

CONTEXT_LINES = 3


@dataclasses.dataclass(frozen=True)
class Explained:
    """One target in two versions.

    Attributes:
        state: ``unchanged``, ``changed``, ``gone`` (or moved), ``new`` or ``absent`` (in neither).
        changes: what changed, a sentence each.
        diff: of its source text, '' when that is the same.
    """

    target: str
    state: str
    changes: tuple[str, ...] = ()
    diff: str = ""


def explain(here: Workspace, patch_id: str, old: str, new: str | None, *, offline: bool, as_json: bool) -> None:
    """Print what changed in every target of a patch from `old` to `new` (a version, a path; None: the installed)."""
    patch = here.patch(patch_id)
    before = open_sources(here, old, announce=output.complain, offline=offline)
    after = open_sources(here, new, announce=output.complain, offline=offline)
    found = list(compared(patch, before, after))
    if as_json:
        output.as_json(
            {
                "id": patch.id,
                "from": before.version,
                "to": after.version,
                "targets": [dataclasses.asdict(item) for item in found],
            }
        )
        return
    output.heading(f"{patch.id}: {here.package} {before.version} to {after.version}")
    for item in found:
        _print(item)


def _print(item: Explained) -> None:
    output.say(f"{item.target}: {item.state}", "green" if item.state == "unchanged" else "bold")
    for line in item.changes:
        output.say(f"  {line}")
    if item.diff:
        output.diff(item.diff)


def compared(patch: Patch, before: SourceTree, after: SourceTree) -> Iterator[Explained]:
    """Every target of the variants for the two versions; of all variants when none is for either."""
    chosen = [item for item in patch.variants if any(fits(tree.version, item.versions) for tree in (before, after))]
    rewrites: dict[str, list[Rewrite]] = {}
    for variant in chosen or patch.variants:
        for rewrite in variant.rewrites:
            rewrites.setdefault(rewrite.target, []).append(rewrite)
    targets = [Target.parse(text) for text in rewrites]
    replaced = [item.place for group in rewrites.values() for item in group if isinstance(item, Replace)]
    usage = scan_package(before, targets, replaced), scan_package(after, targets, replaced)
    for text, group in rewrites.items():
        yield _explained(text, group, before, after, (usage[0][text], usage[1][text]))


def _explained(
    text: str, group: list[Rewrite], before: SourceTree, after: SourceTree, usage: tuple[Usage, Usage]
) -> Explained:
    place = Target.parse(text)
    old, new = find_definition(before, place), find_definition(after, place)
    if old is None and new is None:
        return Explained(text, "absent", ("neither version has it",))
    if old is None:
        assert new is not None
        return Explained(text, "new", (f"{after.version} has it ({_at(after, new)}), {before.version} had not",))
    if new is None:
        return Explained(text, "gone", (_whereabouts(after, place),), _diff(before, old, after, None))
    found = []
    origin = import_origin(new.file, new.nodes[-1], place.qualname.rpartition(".")[2])
    if new.kind == "import" != old.kind and origin is not None:
        found.append(f"moved to {origin}")
        new = find_definition(after, origin) or new  # what is there now is what changed or did not
    found += [*_definition_changes(after, old, new), *_site_changes(group, old, new), *_usage_changes(*usage)]
    diff = _diff(before, old, after, new)
    if any(isinstance(rewrite, Replace) for rewrite in group):
        beyond = list(_beyond(before, old, after, new, usage))
        found += [change for change, _ in beyond if change]
        diff = "\n".join(dict.fromkeys(part for part in (diff, *(part for _, part in beyond)) if part))
    if not found and diff:
        found = ["only comments, docstrings, annotations or layout"]
    return Explained(text, "changed" if found else "unchanged", tuple(found), diff)


def _beyond(
    before: SourceTree, old: Definition, after: SourceTree, new: Definition, usage: tuple[Usage, Usage]
) -> Iterator[tuple[str, str]]:
    """Kernels that a replaced function launches, and functions that launch one: each change, and each diff."""
    was, now = kernels_of(before, old), kernels_of(after, new)
    for change in kernel_changes(*({name: kernel.syntax for name, kernel in one.items()} for one in (was, now))):
        yield change, ""
    for name in {**was, **now}:
        pair = [one[name].definition if name in one else None for one in (was, now)]
        if pair[0] is None or pair[1] is None or was[name].syntax != now[name].syntax:
            yield "", _diff(before, pair[0], after, pair[1])
    before_uses, after_uses = (one.uses for one in usage)
    for change in use_changes(before_uses, after_uses):
        yield change, ""
    for site in [site for site in {**before_uses, **after_uses} if before_uses.get(site) != after_uses.get(site)]:
        place = Target.parse(site) if ":" in site else None
        if place is not None:
            yield "", _diff(before, find_definition(before, place), after, find_definition(after, place))


def _whereabouts(tree: SourceTree, place: Target) -> str:
    if tree.find(place.module) is None:
        what = f"module {place.module} does not exist"
    else:
        what = f"{place.module} has no {place.qualname}"
    modules = find_moved(tree, place)
    return f"{what}; its name is now defined in {', '.join(modules)}" if modules else what


def _definition_changes(after: SourceTree, old: Definition, new: Definition) -> Iterator[str]:
    """What a contract would notice."""
    was, now = describe(old), describe(new)
    if was.kind != now.kind:
        yield f"it was a {was.kind} and is a {now.kind}"
    elif (old.file.module, old.owner) != (new.file.module, new.owner):
        yield f"defined in {_at(after, new)}, before in {old.file.module}{f':{old.owner}' if old.owner else ''}"
    yield from _signature_changes(was, now)
    if was.syntax() != now.syntax():
        yield "body changed"


def _signature_changes(was: Description, now: Description) -> Iterator[str]:
    if was.kind == now.kind and was.signature != now.signature:
        yield f"signature changed: {'; '.join(changes(was.signature, now.signature))}"


def _site_changes(group: list[Rewrite], old: Definition, new: Definition) -> Iterator[str]:
    for rewrite in group:
        if isinstance(rewrite, Retarget):
            was, now = _sites(old, rewrite), _sites(new, rewrite)
            if was != now:
                yield f"sites to retarget: {was} before, {now} now ({_allowed(rewrite)} declared)"


def _sites(definition: Definition, rewrite: Retarget) -> str:
    try:
        return " or ".join(map(str, count_sites(definition, rewrite))) or "0"
    except RewriteError as error:
        return f"none that can be counted ({error})"


def _allowed(rewrite: Retarget) -> str:
    return " or ".join(map(str, rewrite.allowed_sites))


def _usage_changes(before: Usage, after: Usage) -> Iterator[str]:
    pairs: Mapping[str, tuple[set[str], set[str]]] = {
        "overridden by": (before.overridden_by, after.overridden_by),
        "bound in": (before.aliased_in, after.aliased_in),
    }
    for word, (old, new) in pairs.items():
        if new - old:
            yield f"now also {word} {', '.join(sorted(new - old))}"
        if old - new:
            yield f"no longer {word} {', '.join(sorted(old - new))}"


def _at(tree: SourceTree, definition: Definition) -> str:
    return f"{tree.relative(definition.file)}:{definition.line}"


def _diff(before: SourceTree, old: Definition | None, after: SourceTree, new: Definition | None) -> str:
    return "\n".join(
        difflib.unified_diff(
            old.text.splitlines() if old is not None else [],
            new.text.splitlines() if new is not None else [],
            f"{before.version}/{_at(before, old)}" if old is not None else "/dev/null",
            f"{after.version}/{_at(after, new)}" if new is not None else "/dev/null",
            lineterm="",
            n=CONTEXT_LINES,
        )
    )
