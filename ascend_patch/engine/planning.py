"""The plan: for every patch a decision, made before the patched package executes a single line."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from .contract_checking import UNCHECKED, Finding, check
from .contracts import ContractStore
from .registry import Registry, references
from .sources import SourceTree
from .standing import Standing, stand
from .versions import fits, unmet
from .vocabulary import Add, Patch, Replace, State, Variant


class Selection(NamedTuple):
    """What the user switched on and off.

    Attributes:
        only: when not empty, everything else is off.
        enable: on although the patch is off by default.
        strict: every drift of a selected patch is an error.
    """

    disable: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    enable: frozenset[str] = frozenset()
    strict: bool = False

    def off(self, patch: Patch) -> str:
        """Why the patch is switched off, or ''."""
        if patch.id in self.disable:
            return "switched off by the user"
        if self.only and patch.id not in self.only:
            return "not among the patches selected with 'only'"
        if not patch.on and patch.id not in self.enable | self.only:
            return "off by default; switch it on with 'ascend-patch enable'"
        return ""

    def wants(self, patch: Patch) -> bool:
        """Whether the user named the patch explicitly."""
        return patch.id in self.enable | self.only


class Decision(NamedTuple):
    """What happens to one patch, and why.

    Attributes:
        variant: the one that fits the version; None when none does or the patch is off.
        state: `State.PENDING` when it was accepted.
        reason: '' when accepted.
        findings: one for each rewrite of the variant, when contracts were compared.
    """

    patch: Patch
    variant: Variant | None
    state: State
    reason: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.state is State.PENDING

    @property
    def unneeded(self) -> bool:
        """Whether this version works without the patch."""
        return self.state is State.SKIPPED and self.variant is not None and bool(self.variant.unneeded)

    @property
    def settled(self) -> bool:
        """Whether what requires this patch has what it wants."""
        return self.accepted or self.unneeded

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Targets that no contract mentions."""
        return tuple(finding.target for finding in self.findings if finding.problem == UNCHECKED)


@dataclass(frozen=True)
class Plan:
    """The decisions for one version of the package, in the order of application.

    Attributes:
        standing: the version by which the variants were chosen.
    """

    package: str
    version: str
    decisions: Mapping[str, Decision]
    standing: Standing
    strict: bool = False

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.decisions.values())

    @property
    def accepted(self) -> tuple[Decision, ...]:
        return tuple(decision for decision in self if decision.accepted)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what determines the patched behaviour: version, accepted variants, our functions' sources."""
        digest = hashlib.sha256(f"{self.package} {self.version}\n".encode())
        for decision in self.accepted:
            digest.update(f"{decision.patch.id} {decision.variant!r}\n".encode())
            for module in _modules_of(decision):
                digest.update(_source_digest(module))
        return digest.hexdigest()

    def problems(self) -> list[str]:
        """Why the package must not start: a line for each required (in strict mode: each drifted) patch that is out."""
        return [self._sentence(item) for item in self if self._stops(item)]

    def warnings(self) -> list[str]:
        """What is worth one warning: optional patches that drifted, and targets nobody has a contract for."""
        lines = [self.standing.reason] if self.standing.reason else []
        lines += [self._sentence(item) for item in self if item.state is State.DRIFTED and not self._stops(item)]
        for item in self.accepted:
            if item.unchecked and not self.strict:
                lines.append(f"patch {item.patch.id}: no contract for {', '.join(item.unchecked)}")
        return lines

    def _stops(self, decision: Decision) -> bool:
        if decision.patch.required and not decision.settled:
            return True
        return self.strict and (decision.state is State.DRIFTED or bool(decision.accepted and decision.unchecked))

    def _sentence(self, decision: Decision) -> str:
        return sentence(self.package, self.version, decision.patch, decision.state, self._reason(decision))

    def _reason(self, decision: Decision) -> str:
        if decision.accepted and decision.unchecked:
            return f"no contract for {', '.join(decision.unchecked)}"
        return decision.reason


def sentence(package: str, version: str, patch: Patch, state: State, reason: str) -> str:
    """One line about a patch that is not in force, ending with what to do."""
    duty = "required patch" if patch.required else "patch"
    if state is State.DISABLED:
        return (
            f"{duty} {patch.id} is disabled ({reason}), and {package} {version} does not work on this device "
            f"without it: 'ascend-patch enable {patch.id}'"
        )
    verb = "drifted" if state is State.DRIFTED else "is not in force"
    return f"{duty} {patch.id} {verb} on {package} {version}: {reason}: see 'ascend-patch diff {patch.id}'"


def make_plan(
    registry: Registry,
    tree: SourceTree,
    store: ContractStore,
    selection: Selection | None = None,
    standing: Standing | None = None,
) -> Plan:
    """Decide about every patch from the sources alone; nothing of the package is imported or changed.

    Args:
        standing: the version to choose variants by; decided by number and contracts when left out.

    Raises:
        SourceError: the tree's version is unknown.
        ContractError: a contract file is unreadable.
    """
    selection = selection or Selection()
    standing = standing or stand(registry, tree, store)
    decisions = {patch.id: _decide(patch, tree, store, selection, standing.version) for patch in registry}
    _settle_conflicts(registry, decisions, selection)
    _settle_slots(decisions)
    _settle_features(registry, decisions)
    return Plan(tree.package, tree.version, decisions, standing, selection.strict)


def _decide(patch: Patch, tree: SourceTree, store: ContractStore, selection: Selection, version: str) -> Decision:
    off = selection.off(patch)
    if off:
        return Decision(patch, None, State.DISABLED, off)
    variant = next((item for item in patch.variants if fits(version, item.versions)), None)
    if variant is None:
        ranges = " or ".join(item.versions for item in patch.variants)
        return Decision(patch, None, State.SKIPPED, f"it covers {tree.package} {ranges}{_version_hint(tree.version)}")
    if variant.unneeded:
        return Decision(patch, variant, State.SKIPPED, f"not needed: {variant.unneeded}")
    needs = unmet(variant.needs)
    if needs:
        return Decision(patch, variant, State.SKIPPED, f"it needs {' and '.join(needs)}")
    findings = check(tree, variant, store, version)
    drifted = [f"{finding.target}: {finding.text}" for finding in findings if finding.drifted]
    if drifted:
        return Decision(patch, variant, State.DRIFTED, "; ".join(drifted), findings)
    return Decision(patch, variant, State.PENDING, findings=findings)


def _version_hint(version: str) -> str:
    if version.startswith(("0.1.dev", "0.0")):
        return " (this version looks like a source build without tags: rebuild it with its version set)"
    return ""


def _settle_conflicts(registry: Registry, decisions: dict[str, Decision], selection: Selection) -> None:
    """Of two patches in conflict the one the user named stays; otherwise the earlier one."""
    for patch in registry:
        for other in (registry[id] for id in patch.conflicts):
            if not (decisions[patch.id].accepted and decisions[other.id].accepted):
                continue
            keep, drop = (other, patch) if selection.wants(other) and not selection.wants(patch) else (patch, other)
            decisions[drop.id] = _out(decisions[drop.id], f"it conflicts with {keep.id}")


def _settle_slots(decisions: dict[str, Decision]) -> None:
    """Two patches that both fill one slot anew cannot both be right; the later one is left out."""
    holders: dict[str, str] = {}
    for id, decision in decisions.items():
        if not decision.accepted or decision.variant is None:
            continue
        slots = [item.target for item in decision.variant.rewrites if isinstance(item, (Replace, Add))]
        taken = [f"{slot} is already filled by {holders[slot]}" for slot in slots if slot in holders]
        if taken:
            decisions[id] = _out(decision, "; ".join(taken))
        else:
            holders.update(dict.fromkeys(slots, id))


def _settle_features(registry: Registry, decisions: dict[str, Decision]) -> None:
    """Let features stand or fall together, see `fallen_with`."""
    for patch in registry:  # requirements come first, so their fate is known
        missing = [id for id in patch.requires if not decisions[id].settled]
        if decisions[patch.id].accepted and missing:
            parts = [f"{id}, which is {decisions[id].state.value} ({decisions[id].reason})" for id in missing]
            decisions[patch.id] = _out(decisions[patch.id], f"it requires {' and '.join(parts)}")
    for id in [decision.patch.id for decision in decisions.values() if decision.state is State.DRIFTED]:
        standing = {item.patch.id for item in decisions.values() if item.accepted}
        for other in fallen_with(registry, id, standing):
            decisions[other] = _out(decisions[other], f"it belongs to the feature {id}, which drifted")


def fallen_with(registry: Registry, broken: str, standing: Iterable[str]) -> tuple[str, ...]:
    """Which standing patches fall when `broken` does, in the order of application.

    Those that require it, and those that it requires: a feature is one transaction. A patch that
    it requires stays when it is required in its own right or belongs to another standing feature.
    """
    standing = set(standing) - {broken}
    fallen = {id for id in registry.dependents(broken) if id in standing}
    for id in reversed([member for member in registry.feature(broken) if member in standing]):
        others = (set(registry.dependents(id)) & standing) - fallen
        if not registry[id].required and not others:
            fallen.add(id)
    return tuple(id for id in registry.ids if id in fallen)


def _out(decision: Decision, reason: str) -> Decision:
    return decision._replace(state=State.SKIPPED, reason=reason)


def _modules_of(decision: Decision) -> list[str]:
    """The modules that hold the functions a decision installs."""
    modules = {decision.patch.module}
    for rewrite in decision.variant.rewrites if decision.variant else ():
        modules.update(reference.partition(":")[0] for reference in references(rewrite))
    return sorted(modules - {""})


def _source_digest(module: str) -> bytes:
    known = sys.modules.get(module)
    try:
        spec = known.__spec__ if known is not None else importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None or not spec.origin or spec.loader is None or not hasattr(spec.loader, "get_data"):
        return b""
    return hashlib.sha256(spec.loader.get_data(spec.origin)).digest()
