"""``ascend-patch verify --todo``: what is left to do until the patches cover a version."""

from __future__ import annotations

import dataclasses
import importlib.util
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ascend_patch.cli import output
from ascend_patch.cli.describe import bounds
from ascend_patch.cli.errors import Refusal
from ascend_patch.cli.fitting import misfits
from ascend_patch.cli.inspection import each_by_itself, open_sources, usage_facts
from ascend_patch.cli.workspace import Workspace
from ascend_patch.engine.contract_building import check_usage, variant_for
from ascend_patch.engine.contract_checking import check
from ascend_patch.engine.expiry import signs
from ascend_patch.engine.standing import stand
from ascend_patch.engine.versions import is_untagged, release_of

if TYPE_CHECKING:
    from ascend_patch.engine.contracts import ContractStore
    from ascend_patch.engine.plan import Finding
    from ascend_patch.engine.sources import SourceTree
    from ascend_patch.engine.vocabulary import Patch, Variant

NOTHING, CONTRACT, EXTEND, DRIFT, DECIDE = "nothing", "contract", "extend", "drift", "decide"


class Edit(NamedTuple):
    """A range to change in a patch module."""

    place: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True)
class Task:
    """What is left to do for one patch.

    Attributes:
        kind: ``nothing``; ``contract``: it fits, and the contract file is to be written; ``extend``: its range ends
            before the version although all targets are as expected; ``drift``: a target changed; ``decide``: the
            sources alone do not tell.
        text: the reason, in words.
        edits: what extends the range.
        commands: what shows more.
        outgrown: signs that upstream no longer needs the patch.
    """

    id: str
    kind: str
    text: str = ""
    edits: tuple[Edit, ...] = ()
    commands: tuple[str, ...] = ()
    outgrown: tuple[str, ...] = ()


def todo(here: Workspace, vllm: str | None, *, offline: bool, extend: bool, as_json: bool) -> bool:
    """Print the steps that are left for a version (None: the installed one); whether there are none.

    Args:
        extend: make the edits of the ranges whose targets are all as expected.
    """
    tree = open_sources(here, vllm, announce=output.complain, offline=offline)
    registry = each_by_itself(here.registry, ignore_needs=True)
    standing = stand(registry, tree, here.store)
    if standing.reason and is_untagged(tree.version):
        # No range is to reach down to its number: what is left to do is what is left for the version that it is like.
        tree = open_sources(here, vllm, announce=output.complain, offline=offline, taken_for=standing.version)
        output.complain(f"{standing.reason}; ranges need no change for a build without tags")
    sources = f" {shlex.quote(vllm)}" if vllm is not None else ""
    tasks = [task(patch, tree, here.store, sources) for patch in registry]
    elsewhere = check_usage(tree, registry, here.store, standing.version)
    done = all(item.kind == NOTHING for item in tasks)
    extended = _extend(tasks) if extend else []
    then = [] if done else list(_then(tasks, f" --vllm{sources}" if sources else "", here, tree))
    if as_json:
        output.as_json(
            {
                "package": here.package,
                "version": tree.version,
                "done": done,
                "patches": [_facts(item) for item in tasks],
                **usage_facts(elsewhere),
                "unnecessary": [{"id": item.id, "signs": list(item.outgrown)} for item in tasks if item.outgrown],
                "extended": extended,
                "then": then,
            }
        )
    else:
        output.say(f"{here.package} {tree.version}, {tree.kind}: {tree.origin}", "bold")
        _print(tasks, elsewhere, then)
        if extended:
            output.say(f"extended {len(extended)} ranges; the list above is from before", "green")
    return done


def _extend(tasks: Sequence[Task]) -> list[str]:
    """Widen the ranges that only have to be wider; where that was.

    Raises:
        Refusal: a range is not written in the module of its patch as it stands.
    """
    edits = [edit for item in tasks if item.kind == EXTEND for edit in item.edits]
    for edit in edits:
        file, _, line = edit.place.rpartition(":")
        if not line.isdigit():
            raise Refusal(f'{edit.place} does not hold the text "{edit.old}": write "{edit.new}" where it is made')
    for edit in edits:
        file, _, line = edit.place.rpartition(":")
        lines = Path(file).read_text("utf-8").splitlines(keepends=True)
        lines[int(line) - 1] = lines[int(line) - 1].replace(f'"{edit.old}"', f'"{edit.new}"')
        Path(file).write_text("".join(lines), "utf-8")
    return [edit.place for edit in edits]


def _facts(item: Task) -> dict[str, Any]:
    return {
        "id": item.id,
        "kind": item.kind,
        "text": item.text,
        "edits": [edit._asdict() for edit in item.edits],
        "commands": list(item.commands),
    }


def task(patch: Patch, tree: SourceTree, store: ContractStore, sources: str) -> Task:
    """What is left for one patch.

    Args:
        sources: how the user named the tree, with a space before it; '' for the installed one.
    """
    variant = variant_for(patch.variants, tree.version)
    if variant is not None:
        return _covered(patch, variant, tree, store, sources)
    below, above = _neighbours(patch, tree.version)
    rejected = []
    for candidate in (below, above):
        if candidate is None:
            continue
        left_out = _known_between(candidate, patch, tree.version, store)
        if left_out and not patch.required:
            return Task(patch.id, NOTHING, f"{candidate.versions} does not reach the known {left_out} either")
        edits = tuple(_edits(patch, candidate, above if candidate is below else None, tree.version))
        if candidate.unneeded:
            text = f'{candidate.versions} is not needed ("{candidate.unneeded}"): if that is so here, extend it'
            return Task(patch.id, DECIDE, text, edits)
        findings = check(tree, candidate, store)
        outgrown = tuple(signs(patch, tree, candidate, findings))
        unfit = misfits(patch, tree, candidate)
        if not any(finding.problem for finding in findings) and unfit:
            return Task(patch.id, DRIFT, f"with {candidate.versions}: {'; '.join(unfit)}", outgrown=outgrown)
        if not any(finding.problem for finding in findings):
            return Task(patch.id, EXTEND, "all targets are as expected", edits, outgrown=outgrown)
        rejected.append((candidate, findings, outgrown))
    if not rejected:
        return Task(patch.id, DECIDE, f"{' or '.join(item.versions for item in patch.variants)} leaves it out")
    candidate, findings, outgrown = min(rejected, key=lambda item: sum(bool(finding.problem) for finding in item[1]))
    text = f"no variant covers it; compared with {candidate.versions}: {_problems(findings)}"
    kind = DRIFT if any(finding.drifted for finding in findings) else DECIDE
    commands = tuple(_explanations(patch, candidate, findings, sources, tree, store))
    return Task(patch.id, kind, text, (), commands, outgrown)


def _covered(patch: Patch, variant: Variant, tree: SourceTree, store: ContractStore, sources: str) -> Task:
    if variant.unneeded:
        return Task(patch.id, NOTHING, f"not needed: {variant.unneeded}")
    findings = check(tree, variant, store)
    outgrown = tuple(signs(patch, tree, variant, findings))
    if any(finding.drifted for finding in findings):
        commands = tuple(_explanations(patch, variant, findings, sources, tree, store))
        return Task(patch.id, DRIFT, _problems(findings), (), commands, outgrown)
    own = store.get(tree.version)
    unfit = misfits(patch, tree, variant, own)
    if unfit:
        return Task(patch.id, DRIFT, "; ".join(unfit), outgrown=outgrown)
    if own is not None and all(finding.target in own.targets for finding in findings):
        return Task(patch.id, NOTHING, outgrown=outgrown)
    return Task(patch.id, CONTRACT, "it fits", outgrown=outgrown)


def _problems(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{item.target}: {item.text}" for item in findings if item.problem)


def _explanations(
    patch: Patch, variant: Variant, findings: Sequence[Finding], sources: str, tree: SourceTree, store: ContractStore
) -> Iterator[str]:
    versions = dict.fromkeys(finding.against for finding in findings if finding.problem and finding.against)
    if not versions:  # a target that is gone was not compared with any
        versions = dict.fromkeys(
            known.version for known in islice(store.by_distance(tree.version, variant.versions), 1)
        )
    to = f" --to{sources}" if sources else ""
    for version in versions:
        yield f"ascend-patch verify --explain {patch.id} --from {version}{to}"


def _neighbours(patch: Patch, version: str) -> tuple[Variant | None, Variant | None]:
    """The variant that ends last before the version, and the one that begins first after it."""
    from packaging.version import Version

    here = Version(release_of(version))
    below, above = [], []
    for variant in patch.variants:
        low, high = (Version(text.lstrip("<>=")) for text in bounds(variant.versions))
        if high <= here:
            below.append((high, variant))
        elif low >= here:
            above.append((low, variant))
    return (
        max(below, key=lambda pair: pair[0])[1] if below else None,
        min(above, key=lambda pair: pair[0])[1] if above else None,
    )


def _known_between(variant: Variant, patch: Patch, version: str, store: ContractStore) -> str:
    """A version with a contract, between the variant and `version`, that no variant covers; '' when there is none.

    The patch then ended (or begins) there on purpose.
    """
    from packaging.version import Version

    here = Version(release_of(version))
    low, high = (Version(text.lstrip("<>=")) for text in bounds(variant.versions))
    for text in store.versions():
        known = Version(text)
        between = high <= known < here or here < known < low
        if between and variant_for(patch.variants, text) is None:
            return text
    return ""


def _edits(patch: Patch, variant: Variant, above: Variant | None, version: str) -> Iterator[Edit]:
    """The change of its module that makes a variant cover the version too."""
    new = extended(variant.versions, version, above.versions if above is not None else None)
    origin = getattr(importlib.util.find_spec(patch.module), "origin", None) if patch.module else None
    lines = Path(origin).read_text("utf-8").splitlines() if origin else []
    found = [number for number, line in enumerate(lines, 1) if f'"{variant.versions}"' in line]
    for number in found:
        yield Edit(f"{_shown(Path(str(origin)))}:{number}", variant.versions, new)
    if not found:
        yield Edit(origin or patch.module, variant.versions, new)


def _shown(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def extended(specifier: str, version: str, above: str | None) -> str:
    """A range that contains `version` too: up to the next minor release, or down to the version itself.

    Args:
        above: the range that begins next after the version, if any: the new one must not reach into it.
    """
    from packaging.version import Version

    here = Version(release_of(version))
    low, high = bounds(specifier)
    if Version(low.lstrip(">=")) > here:
        return f">={here},{high}"
    limit = f"{here.major}.{here.minor + 1}"
    if above is not None:
        first = bounds(above)[0].lstrip(">=")
        limit = min(limit, first, key=Version)
    others = [text for text in map(str.strip, specifier.split(",")) if text not in (low, high) and "==" not in text]
    return ",".join([low, *others, f"<{limit}"])


def _then(tasks: Sequence[Task], option: str, here: Workspace, tree: SourceTree) -> Iterator[str]:
    yield f"ascend-patch verify{option} --update"
    if any(item.kind in (EXTEND, DRIFT, DECIDE) for item in tasks):
        yield "ascend-patch docs"
    yield f"the tests with {here.package} {tree.version}"


HEADINGS = {
    EXTEND: "extend the range: every target is as expected",
    DRIFT: "upstream changed a target: adapt the patch, or add a variant",
    DECIDE: "decide: the sources alone do not tell",
    CONTRACT: "fits, and has no contract of this version yet",
}


def _print(tasks: Sequence[Task], elsewhere: Sequence[Finding], then: Sequence[str]) -> None:
    for kind, heading in HEADINGS.items():
        chosen = [item for item in tasks if item.kind == kind]
        if chosen:
            output.heading(f"{heading} ({len(chosen)})")
        for item in chosen:
            _print_task(item)
    for finding in elsewhere:
        output.say(f"{finding.target}: {finding.text}", "yellow")
    for item in tasks:
        if item.outgrown:
            output.say(f"upstream seems to have outgrown {item.id}: {'; '.join(item.outgrown)}", "yellow")
    done = sum(item.kind == NOTHING for item in tasks)
    output.say(f"{done} of {len(tasks)} patches: nothing to do", "green" if done == len(tasks) else "")
    for number, step in enumerate(then, 1):
        output.say(f"{'then' if number == 1 else '    '}  {step}")


def _print_task(item: Task) -> None:
    if item.kind in (EXTEND, CONTRACT):
        output.say(f"  {item.id}")
    else:
        output.say(f"  {item.id}: {item.text}")
    for edit in item.edits:
        output.say(f'    {edit.place}: "{edit.old}" -> "{edit.new}"')
    for command in item.commands:
        output.say(f"    {command}")
