"""A patch in words and as plain data: what `list`, `show`, `verify` and `docs` say about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ascend_patch.engine.vocabulary import (
    Add,
    Expiry,
    Patch,
    Register,
    Replace,
    Retarget,
    Rewrite,
    State,
    Variant,
    Wrap,
)

if TYPE_CHECKING:
    from ascend_patch.cli.workspace import Workspace
    from ascend_patch.engine.plan import Plan


def sentence(rewrite: Rewrite) -> str:
    """What one rewrite does to its target, e.g. ``replace vllm.a:f with :ours``."""
    match rewrite:
        case Retarget():
            renamed = [f"{old} -> {new}" for old, new in rewrite.names.items()]
            renamed += [f"{old!r} -> {new!r}" for old, new in rewrite.strings.items()]
            counts = " or ".join(str(count) for count in rewrite.allowed_sites)
            noun = "site" if counts == "1" else "sites"
            kept = f", not after {' or '.join(rewrite.never_after)}" if rewrite.never_after else ""
            return f"retarget {rewrite.target}: {', '.join(renamed)} ({counts} {noun}{kept})"
        case Register():
            value = repr(rewrite.value) if rewrite.literal else rewrite.value
            key = rewrite.key if rewrite.key_by_reference else repr(rewrite.key)
            return f"register {value} as {key} in {rewrite.target}"
        case Replace():
            return f"replace {rewrite.target} with {rewrite.by}"
        case Wrap():
            return f"wrap {rewrite.target} with what {rewrite.by} returns"
        case Add():
            return f"add {rewrite.target} from {rewrite.by}"
    return f"{rewrite.kind} {rewrite.target}"


def rewrite_facts(rewrite: Rewrite) -> dict[str, Any]:
    """One rewrite as plain data: its kind and every field of its declaration."""
    facts: dict[str, Any] = {"kind": rewrite.kind, "target": rewrite.target}
    match rewrite:
        case Retarget():
            facts |= {
                "names": dict(rewrite.names),
                "strings": dict(rewrite.strings),
                "sites": list(rewrite.allowed_sites),
                "never_after": list(rewrite.never_after),
            }
        case Register():
            facts |= {
                "key": rewrite.key,
                "key_by_reference": rewrite.key_by_reference,
                "value": rewrite.value,
                "literal": rewrite.literal,
            }
        case Replace() | Wrap() | Add():
            facts["by"] = rewrite.by
    return facts


def variant_facts(variant: Variant) -> dict[str, Any]:
    """One variant as plain data."""
    return {
        "versions": variant.versions,
        "needs": list(variant.needs),
        "unneeded": variant.unneeded,
        "rewrites": [rewrite_facts(rewrite) for rewrite in variant.rewrites],
    }


def on_or_off(workspace: Workspace, patch: Patch) -> tuple[bool, str]:
    """Whether the user's settings leave the patch on, and where that comes from ("" for the default)."""
    settings = workspace.settings
    if settings.selection.off(patch):
        if patch.id in settings.disable:
            return False, f"disabled by {settings.origins.get(f'disable {patch.id}', 'the settings')}"
        if settings.only:
            return False, f"not selected by {settings.origins.get('only', 'the settings')}"
        return False, "off by default"
    if patch.id in settings.only:
        return True, f"selected by {settings.origins.get('only', 'the settings')}"
    if patch.id in settings.enable:
        return True, f"enabled by {settings.origins.get(f'enable {patch.id}', 'the settings')}"
    return True, ""


def patch_facts(workspace: Workspace, patch: Patch, plan: Plan | None) -> dict[str, Any]:
    """Everything ``--json`` says about a patch.

    ``state`` is what the installed package would get: ``pending`` means it would
    be applied; None means that the package is not installed.
    """
    on, why_on = on_or_off(workspace, patch)
    decision = plan.decisions.get(patch.id) if plan is not None else None
    chosen = decision.variant if decision is not None else None
    return {
        "id": patch.id,
        "area": patch.area,
        "why": patch.why,
        "required": patch.required,
        "traced": patch.traced,
        "on": on,
        "on_reason": why_on,
        "state": decision.state.value if decision is not None else None,
        "unneeded": decision is not None and decision.unneeded,
        "state_reason": decision.reason if decision is not None else "",
        "variant": chosen.versions if chosen is not None else None,
        "variants": [variant_facts(variant) for variant in patch.variants],
        "requires": list(patch.requires),
        "conflicts": list(patch.conflicts),
        "upstream": patch.upstream,
        "unnecessary_when": patch.unnecessary_when,
        "expires": [sign.as_dict() for sign in patch.expires],
        "no_sign": patch.no_sign,
        "module": patch.module,
    }


NOT_NEEDED = "not-needed"
"""The word for a patch that the version works without; its state is "skipped"."""


def state_word(state: str | None, unneeded: bool = False) -> str:
    """The word a table shows for a predicted state: accepted patches "apply", they are not waiting for anything."""
    if state is None:
        return "-"
    if unneeded:
        return NOT_NEEDED
    return "applies" if state == State.PENDING.value else state


def expiry_sentence(sign: Expiry) -> str:
    """What would be a sign that upstream no longer needs a patch, e.g. ``a.b:c no longer mentions 'cuda'``."""
    if sign.without:
        return f"{sign.target} no longer mentions {sign.without!r}"
    return f"{sign.target} mentions {sign.mentions!r}" if sign.mentions else f"upstream has {sign.target}"


def merged(ranges: Iterable[str]) -> list[str]:
    """As few ranges as cover the same versions, lowest first; those that touch become one."""
    from packaging.version import Version

    spans: list[tuple[str, str]] = []
    for low, high in sorted(map(bounds, ranges), key=lambda pair: Version(pair[0].lstrip(">="))):
        if spans and Version(low.lstrip(">=")) <= Version(spans[-1][1].lstrip("<=")):
            widest = max(spans[-1][1], high, key=lambda text: Version(text.lstrip("<=")))
            spans[-1] = (spans[-1][0], widest)
        else:
            spans.append((low, high))
    return [f"{low},{high}" for low, high in spans]


def bounds(specifier: str) -> tuple[str, str]:
    """The clauses of a variant's range that bound it from below and from above, e.g. ``(">=0.13", "<0.34")``."""
    clauses = [clause.strip() for clause in specifier.split(",")]
    pinned = next((clause.lstrip("=").removesuffix(".*") for clause in clauses if clause.startswith("==")), None)
    if pinned is not None:
        return f">={pinned}", f"<={pinned}"
    low = next(clause for clause in clauses if clause.startswith(">"))
    return low, next(clause for clause in clauses if clause.startswith("<"))
