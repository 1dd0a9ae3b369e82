"""One version's sources against all patches: what `verify` shows, for one version or for many."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ascend_patch.cli import output, releases
from ascend_patch.cli.errors import Refusal
from ascend_patch.cli.workspace import Workspace

if TYPE_CHECKING:
    from ascend_patch.engine.contracts import ContractSet
    from ascend_patch.engine.plan import Decision, Finding, Plan, Standing
    from ascend_patch.engine.registry import Registry
    from ascend_patch.engine.sources import SourceTree
    from ascend_patch.engine.vocabulary import Patch, Variant


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What every patch would do to one version.

    Attributes:
        plan: made with every patch switched on and without conflicts.
        inside: whether the version lies in the range of some patch.
        known: the contracts of exactly this version, None when there is no such file.
    """

    tree: SourceTree
    plan: Plan
    inside: bool
    known: ContractSet | None

    @property
    def version(self) -> str:
        return self.plan.version

    @property
    def ok(self) -> bool:
        """Whether nothing required falls short (with strict: nothing drifts, every function fits)."""
        return not self.plan.problems() and not self.short and not (self.plan.strict and self.misfits)

    @property
    def unneeded(self) -> list[str]:
        """Ids of the patches that this version works without."""
        return [decision.patch.id for decision in self.plan if decision.unneeded]

    @property
    def applied(self) -> int:
        """How many patches apply and fit."""
        return len(self.plan.accepted) - len(self.misfits)

    @property
    def summary(self) -> str:
        """How many patches apply, in words."""
        unneeded = f", {len(self.unneeded)} not needed" if self.unneeded else ""
        return f"{self.applied} of {len(self.plan.decisions)} patches apply{unneeded}"

    @property
    def short(self) -> list[str]:
        """Ids of the required patches that are needed and do not apply, or do not take upstream's arguments."""
        required = [item for item in self.plan if item.patch.required]
        return [item.patch.id for item in required if not item.settled or item.patch.id in self.misfits]

    @cached_property
    def misfits(self) -> Mapping[str, list[str]]:
        """For each patch that applies and whose functions do not take upstream's arguments what is wrong."""
        from ascend_patch.cli.fitting import misfits

        found = {item.patch.id: misfits(item.patch, self.tree, item.variant, self.known) for item in self.plan.accepted}
        return {id: sentences for id, sentences in found.items() if sentences}

    @cached_property
    def unnecessary(self) -> Mapping[str, list[str]]:
        """For each patch that upstream has outgrown the signs of it."""
        from ascend_patch.engine.expiry import signs
        from ascend_patch.engine.versions import is_untagged, newer

        standing = self.plan.standing.version
        if not self.inside and newer(standing, self.version) and not is_untagged(self.version):
            return {}  # upstream has not outgrown what it had not come to
        looked_at = [item for item in self.plan if item.variant is not None and not item.unneeded]
        found = {item.patch.id: signs(item.patch, self.tree, item.variant, item.findings) for item in looked_at}
        return {id: sentences for id, sentences in found.items() if sentences}

    @cached_property
    def moved(self) -> Mapping[str, tuple[str, ...]]:
        """Targets that are gone, and the modules that define their name now. Reads all sources if there are any."""
        from ascend_patch.engine.contract_checking import find_moved
        from ascend_patch.engine.vocabulary import Target

        gone = {item.target for decision in self.plan for item in decision.findings if item.problem == "missing"}
        return {target: find_moved(self.tree, Target.parse(target)) for target in sorted(gone)}

    def facts(self) -> dict[str, Any]:
        """The inspection as plain data."""
        return {
            "version": self.version,
            "origin": self.tree.origin,
            "source": self.tree.kind,
            "inside": self.inside,
            "taken_for": self.plan.standing.as_dict() if self.plan.standing.reason else None,
            "contract": self.known is not None,
            "ok": self.ok,
            "applied": self.applied,
            "not_needed": self.unneeded,
            "short": self.short,
            "misfits": [{"id": id, "problems": sentences} for id, sentences in self.misfits.items()],
            "patches": [self._decision_facts(decision) for decision in self.plan],
            "unnecessary": [{"id": id, "signs": sentences} for id, sentences in self.unnecessary.items()],
        }

    def _decision_facts(self, decision: Decision) -> dict[str, Any]:
        return {
            "id": decision.patch.id,
            "required": decision.patch.required,
            "state": decision.state.value,
            "unneeded": decision.unneeded,
            "reason": decision.reason,
            "variant": decision.variant.versions if decision.variant is not None else None,
            "number": number(decision),
            "targets": [
                {
                    "target": item.target,
                    "problem": item.problem,
                    "text": item.text,
                    "against": item.against,
                    "now_in": list(self.moved.get(item.target, ())),
                }
                for item in decision.findings
            ],
        }


def usage_facts(findings: Sequence[Finding]) -> dict[str, Any]:
    """What `check_usage` found, as plain data."""

    def of(problem: str) -> list[dict[str, str]]:
        return [{"target": item.target, "text": item.text} for item in findings if item.problem == problem]

    return {"overridden": of("overridden"), "launched": of("launch")}


def number(decision: Decision) -> int | None:
    """Which of its patch's variants was looked at, counted from 1 as in PATCHES.md."""
    if decision.variant is None:
        return None
    return [variant.versions for variant in decision.patch.variants].index(decision.variant.versions) + 1


def inspect(
    here: Workspace,
    tree: SourceTree,
    *,
    strict: bool = False,
    elsewhere: bool = True,
    standing: Standing | None = None,
) -> Inspection:
    """Compare every patch with a tree.

    Args:
        elsewhere: the sources are not those installed here, so that what variants need of this machine does not matter.
        standing: the version to choose variants by; decided by number and contracts when left out.
    """
    from ascend_patch.engine.plan import Selection
    from ascend_patch.engine.planning import make_plan

    registry = each_by_itself(here.registry, ignore_needs=elsewhere)
    selection = Selection(enable=frozenset(registry.ids), strict=strict)
    plan = make_plan(registry, tree, here.store, selection, standing)
    return Inspection(tree, plan, is_inside(registry, tree.version), here.store.get(tree.version))


def each_by_itself(registry: Registry, ignore_needs: bool) -> Registry:
    """The registry without conflicts, because all patches are on here whether or not they can be on together.

    With `ignore_needs` also without what variants need of this machine.
    """
    from ascend_patch.engine.registry import Registry

    def variants(patch: Patch) -> tuple[Variant, ...]:
        if not ignore_needs:
            return patch.variants
        return tuple(variant.changed(needs=()) for variant in patch.variants)

    return Registry({patch.id: patch.changed(conflicts=(), variants=variants(patch)) for patch in registry})


def is_inside(registry: Registry, version: str) -> bool:
    """Whether the range of some patch contains the version."""
    from ascend_patch.engine.versions import fits

    return any(fits(version, text) for text in ranges(registry))


def ranges(registry: Registry) -> list[str]:
    """Every range that some variant names."""
    return list(dict.fromkeys(variant.versions for patch in registry for variant in patch.variants))


def open_sources(
    here: Workspace,
    text: str | None,
    *,
    announce: Callable[[str], None],
    taken_for: str | None = None,
    offline: bool = False,
) -> SourceTree:
    """The sources that a user names: a path, else a released version, else (None) what is installed.

    Raises:
        Refusal: there is no such release, or it cannot be had.
        SourceError: what is there is no such package.
    """
    from ascend_patch.engine.versions import is_version

    if text is None or Path(text).exists() or not is_version(text):
        return here.tree(text, version=taken_for)
    return here.tree(released(here, text, announce=announce, offline=offline), version=taken_for)


def released(
    here: Workspace,
    version: str,
    *,
    announce: Callable[[str], None],
    offline: bool = False,
    known: Mapping[str, releases.Release] | None = None,
) -> Path:
    """The archive of a release, from the cache or the index.

    Raises:
        Refusal: it cannot be had.
    """
    if offline and releases.spelled(version, releases.cached(here.package, here.environ)) is None:
        raise Refusal(f"the sources of {here.package} {version} are not in the cache: leave out --offline")
    return releases.source(here.package, version, here.environ, known=known, announce=announce)


class Updated(NamedTuple):
    """What writing a contract file did.

    Attributes:
        sentence: about the file.
        accepted: changes upstream made in targets that would be drift without it: whoever commits the file says
            that the patches cope with them.
    """

    sentence: str
    accepted: tuple[str, ...] = ()


def update(here: Workspace, tree: SourceTree) -> Updated:
    """Write the contract file of the tree's version."""
    from ascend_patch.engine.contract_building import build
    from ascend_patch.engine.contracts import ContractStore

    new = build(tree, here.registry)
    path = here.contracts_folder / f"{new.version}.json"
    old = here.store.get(new.version)
    if old == new:
        return Updated(f"{path} is up to date ({len(new.targets)} targets)")
    accepted = tuple(_accepted(here, tree))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.save(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    here.store = ContractStore(here.contracts_folder).readable()
    return Updated(f"wrote {path} ({_changes(old, new)})", accepted)


def _accepted(here: Workspace, tree: SourceTree) -> Iterator[str]:
    """What is unlike every known version in a patch's range, and will be as expected with a contract of its own."""
    from ascend_patch.engine.contract_building import variant_for
    from ascend_patch.engine.contract_checking import check

    for patch in here.registry:
        variant = variant_for(patch.variants, tree.version)
        for item in check(tree, variant, here.store) if variant is not None else ():
            if item.problem in ("signature", "body", "kind", "kernel", "launch"):
                yield (
                    f"{patch.id} now takes for granted: {item.target}: {item.text} "
                    f"('ascend-patch verify --explain {patch.id} --from {item.against} --to {tree.version}')"
                )


def _changes(old: ContractSet | None, new: ContractSet) -> str:
    if old is None:
        return f"{len(new.targets)} targets"
    added = new.targets.keys() - old.targets.keys()
    removed = old.targets.keys() - new.targets.keys()
    changed = [name for name in new.targets.keys() & old.targets.keys() if new.targets[name] != old.targets[name]]
    return f"{len(new.targets)} targets: {len(added)} added, {len(removed)} removed, {len(changed)} changed"


def updated_facts(written: Updated | None) -> dict[str, Any]:
    """What --update did, as plain data."""
    if written is None:
        return {"updated": None, "accepted": []}
    return {"updated": written.sentence, "accepted": list(written.accepted)}


def print_updated(written: Updated) -> None:
    """Say what --update did."""
    output.say(written.sentence)
    for line in written.accepted:
        output.say(f"  {line}", "yellow")
