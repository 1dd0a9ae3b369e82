"""What was decided: for every patch a decision, together the plan that an overlay carries out."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.machinery import ModuleSpec

from ascend_patch.value import Value

from .registry import Registry, references
from .vocabulary import Patch, State, Variant

UNCHECKED = "unchecked"


class Finding(Value):
    """The result for one rewrite.

    Attributes:
        target: the rewrite's target as text.
        problem: '' when all is well; ``missing``, ``moved``, ``exists``, ``kind``, ``signature``, ``body``,
            ``kernel``, ``launch``, ``sites``, ``overridden`` or ``unreadable`` when it drifted; ``unchecked`` when no
            contract mentions it.
        text: what changed, for people.
        against: the version whose contract it was compared with, '' when none.
    """

    target: str
    problem: str = ""
    text: str = ""
    against: str = ""

    @property
    def drifted(self) -> bool:
        return self.problem not in ("", UNCHECKED)


class Standing(Value):
    """The version that decides which variants are looked at.

    Attributes:
        version: the tree's own version, or the known one it is taken for.
        reason: why it is taken for another one; '' when it is its own.
    """

    version: str
    reason: str = ""


class Selection(Value):
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


class Decision(Value):
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


class Plan(Value):
    """The decisions for one version of the package, in the order of application.

    Attributes:
        standing: the version by which the variants were chosen.
        usage: what the package does elsewhere with targets of accepted patches, and did not in known versions; with
            the patches' ids. Only looked for where a version has no contracts of its own.
    """

    package: str
    version: str
    decisions: Mapping[str, Decision]
    standing: Standing
    strict: bool = False
    usage: tuple[tuple[str, Finding], ...] = ()

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
            for module in modules_of(decision):
                digest.update(_source_digest(module))
        return digest.hexdigest()

    def problems(self, sources: str = "") -> list[str]:
        """Why the package must not start: a line for each required (in strict mode: each drifted) patch that is out.

        Args:
            sources: options of a command, by which it looks at these sources when they are not the installed ones.
        """
        lines = [self._sentence(item, sources) for item in self if self._stops(item)]
        return lines + (self._used_elsewhere() if self.strict else [])

    def warnings(self) -> list[str]:
        """What is worth one warning: optional patches that drifted, targets nobody has a contract for, new uses."""
        lines = [self.standing.reason] if self.standing.reason else []
        lines += [self._sentence(item) for item in self if item.state is State.DRIFTED and not self._stops(item)]
        for item in self.accepted:
            if item.unchecked and not self.strict:
                lines.append(f"patch {item.patch.id}: no contract for {', '.join(item.unchecked)}")
        return lines + ([] if self.strict else self._used_elsewhere())

    def _used_elsewhere(self) -> list[str]:
        return [
            f"patch {id}: {finding.target}: {finding.text}: see 'ascend-patch verify'" for id, finding in self.usage
        ]

    def _stops(self, decision: Decision) -> bool:
        if decision.patch.required and not decision.settled:
            return True
        return self.strict and (decision.state is State.DRIFTED or bool(decision.accepted and decision.unchecked))

    def _sentence(self, decision: Decision, sources: str = "") -> str:
        return sentence(self.package, self.version, decision.patch, decision.state, self._reason(decision), sources)

    def _reason(self, decision: Decision) -> str:
        if decision.accepted and decision.unchecked:
            return f"no contract for {', '.join(decision.unchecked)}"
        return decision.reason


def sentence(package: str, version: str, patch: Patch, state: State, reason: str, sources: str = "") -> str:
    """One line about a patch that is not in force, ending with what to do; for `sources` see `Plan.problems`."""
    duty = "required patch" if patch.required else "patch"
    if state is State.DISABLED:
        return (
            f"{duty} {patch.id} is disabled ({reason}), and {package} {version} does not work on this device "
            f"without it: 'ascend-patch enable {patch.id}'"
        )
    verb = "drifted" if state is State.DRIFTED else "is not in force"
    # What was never chosen has nothing to compare.
    command = f"show {patch.id}" if state is State.SKIPPED else f"diff {patch.id}{sources}"
    return f"{duty} {patch.id} {verb} on {package} {version}: {reason}: see 'ascend-patch {command}'"


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


def modules_of(decision: Decision) -> list[str]:
    """The modules that hold the functions a decision installs."""
    modules = {decision.patch.module}
    for rewrite in decision.variant.rewrites if decision.variant else ():
        modules.update(reference.partition(":")[0] for reference in references(rewrite))
    return sorted(modules - {""})


def spec_of(module: str) -> ModuleSpec | None:
    """Where a module comes from; nothing is imported but the packages around it."""
    known = sys.modules.get(module)
    try:
        return known.__spec__ if known is not None else importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None


def _source_digest(module: str) -> bytes:
    spec = spec_of(module)
    if spec is None or not spec.origin or spec.loader is None or not hasattr(spec.loader, "get_data"):
        return b""
    return hashlib.sha256(spec.loader.get_data(spec.origin)).digest()
