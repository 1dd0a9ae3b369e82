"""Deciding: what happens to every patch, before the patched package executes a single line."""

from __future__ import annotations

from .contract_checking import check
from .contracts import ContractStore
from .plan import Decision, Plan, Selection, Standing, fallen_with
from .registry import Registry
from .sources import SourceTree
from .standing import stand
from .versions import fits, is_untagged, unmet
from .vocabulary import Add, Patch, Replace, State


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


def with_usage(plan: Plan, registry: Registry, tree: SourceTree, store: ContractStore) -> Plan:
    """`plan`, and in a version that has no contracts of its own, what the rest of the package does with targets.

    That takes seconds: the whole package is looked through. A start with a known version does not.

    Raises:
        ContractError: a contract file is unreadable.
    """
    if not plan.accepted or store.get(tree.version) is not None:
        return plan
    from .contract_building import check_usage

    found = check_usage(tree, registry, store, plan.standing.version)
    usage = [
        (decision.patch.id, finding)
        for decision in plan.accepted
        for rewrite in (decision.variant.rewrites if decision.variant else ())
        for finding in found
        if finding.target == rewrite.target
    ]
    return plan.changed(usage=tuple(dict.fromkeys(usage)))


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
    if is_untagged(version):
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


def _out(decision: Decision, reason: str) -> Decision:
    return decision.changed(state=State.SKIPPED, reason=reason)
