"""Generating contracts from a source tree. The only place that looks at the whole package."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .contract_checking import describe, looked_through
from .contracts import ABSENT, Contract, ContractSet, ContractStore, site_key
from .errors import RewriteError, SourceError
from .launches import Kernel, Uses, is_object, kernels_of, modules_of, use_changes, uses_in
from .origins import resolved
from .plan import Finding
from .registry import Registry
from .sources import SourceFile, SourceTree
from .syntax import Definition, bindings, count_sites, find_definition, find_holder, flattened, imported_module
from .versions import fits, release_of
from .vocabulary import Add, Replace, Retarget, Rewrite, Target, Variant


def build(tree: SourceTree, registry: Registry, version: str | None = None) -> ContractSet:
    """The contracts of every target that a variant fitting the tree's version has.

    Targets that do not resolve get no contract: `contract_checking.check` reports them.
    """
    version = version or tree.version
    variants = [item for patch in registry for item in patch.variants if fits(version, item.versions)]
    rewrites = [rewrite for variant in variants for rewrite in variant.rewrites]
    return build_for(tree, rewrites, release_of(version))


def check_usage(tree: SourceTree, registry: Registry, store: ContractStore, version: str = "") -> tuple[Finding, ...]:
    """What the package does with targets elsewhere, and did not in the nearest known version.

    Subclasses that override one escape the patch (``overridden``); what launches a kernel that is replaced from a
    module that did not may pass other arguments than ours takes (``launch``).

    Needs a scan of the whole package (seconds): part of a verification, and of a start with an unknown version only.

    Args:
        version: the known version the tree is taken for; its own when left out.
    """
    version = version or tree.version
    built = build(tree, registry, version).targets
    findings: list[Finding] = []
    for variant in (variant_for(patch.variants, version) for patch in registry):
        if variant is None:
            continue
        nearest = list(store.by_distance(version, variant.versions))
        for rewrite in variant.rewrites:
            known = next((item for item in nearest if rewrite.target in item.targets), None)
            if known is not None and rewrite.target in built:
                findings += _usage_findings(rewrite, known, built[rewrite.target])
    return tuple(findings)


def _usage_findings(rewrite: Rewrite, known: ContractSet, built: Contract) -> Iterator[Finding]:
    before = known.targets[rewrite.target]
    added = set(built.overridden_by) - set(before.overridden_by)
    if added:
        text = f"{', '.join(sorted(added))} overrides it since {known.version}: the patch does not reach them"
        yield Finding(rewrite.target, "overridden", text, known.version)
    if isinstance(rewrite, Replace):
        # In the others it is drift, see `contract_checking`.
        looked_at = looked_through(rewrite.place, before)
        elsewhere = {site: uses for site, uses in built.uses.items() if modules_of([site]).isdisjoint(looked_at)}
        if elsewhere:
            text = f"{'; '.join(use_changes({}, elsewhere))} since {known.version}"
            yield Finding(rewrite.target, "launch", text, known.version)


def build_for(tree: SourceTree, rewrites: Iterable[Rewrite], version: str) -> ContractSet:
    """The contracts of these rewrites' targets."""
    by_target: dict[str, list[Rewrite]] = {}
    for rewrite in rewrites:
        by_target.setdefault(rewrite.target, []).append(rewrite)
    replaced = {rewrite.place for group in by_target.values() for rewrite in group if isinstance(rewrite, Replace)}
    usage = scan_package(tree, {Target.parse(text) for text in by_target}, replaced)
    targets = {}
    for text, group in by_target.items():
        with contextlib.suppress(SourceError):  # syntax of a newer Python
            contract = _contract(tree, Target.parse(text), group, usage[text])
            if contract is not None:
                targets[text] = contract
    return ContractSet(version, targets)


def variant_for(variants: Iterable[Variant], version: str) -> Variant | None:
    """The variant that fits the version, if any."""
    return next((item for item in variants if fits(version, item.versions)), None)


def _contract(tree: SourceTree, place: Target, group: list[Rewrite], usage: Usage) -> Contract | None:
    file = tree.find(place.module)
    if file is None:
        return None
    definition = find_definition(tree, place)
    adds = any(isinstance(rewrite, Add) for rewrite in group)
    if definition is None or (definition.inherited and adds):
        if not adds or ("." in place.qualname and find_holder(tree, place) != "class"):
            return None
        return Contract(ABSENT, "", "", tree.relative(file), file.sha256)
    described = describe(definition)
    callable_ = described.kind not in ("class", "variable", "import")
    kernels = kernels_of(tree, definition) if any(isinstance(rewrite, Replace) for rewrite in group) else {}
    return Contract(
        kind=described.kind,
        signature=described.signature,
        syntax=described.syntax(),
        file=tree.relative(definition.file),
        sha256=definition.file.sha256,
        sites=_sites(definition, group) if callable_ and not definition.inherited else {},
        overridden_by=tuple(sorted(usage.overridden_by)),
        aliased_in=tuple(sorted(usage.aliased_in)),
        uses=usage.uses,
        kernels={name: kernels[name].syntax for name in sorted(kernels)},
        also=_further_files(tree, definition, usage, kernels),
    )


def _further_files(
    tree: SourceTree, definition: Definition, usage: Usage, kernels: Mapping[str, Kernel]
) -> dict[str, str]:
    """The files besides the target's own whose change may be one of its uses or kernels."""
    modules = modules_of(usage.uses) | (usage.aliased_in if usage.uses else set())
    files = [*map(tree.find, sorted(modules)), *(kernel.file for kernel in kernels.values())]
    return {tree.relative(file): file.sha256 for file in files if file is not None and file != definition.file}


def _sites(definition: Definition, group: list[Rewrite]) -> dict[str, tuple[int, ...]]:
    """The site counts of every retarget of a definition; none for one that cannot be counted (it has drifted)."""
    counts = {}
    for rewrite in group:
        if isinstance(rewrite, Retarget):
            with contextlib.suppress(RewriteError):
                counts[site_key(rewrite)] = count_sites(definition, rewrite)
    return counts


@dataclass
class Usage:
    """Where else in the package a target matters.

    Attributes:
        overridden_by: ``module:Class`` of subclasses that define the attribute themselves.
        aliased_in: modules that bind a module-level target with a ``from ... import`` of their own.
        uses: what is done with a module-level target that is replaced, when that is more than calling it.
    """

    overridden_by: set[str] = field(default_factory=set)
    aliased_in: set[str] = field(default_factory=set)
    uses: Uses = field(default_factory=dict)


def scan_package(tree: SourceTree, targets: Iterable[Target], replaced: Iterable[Target] = ()) -> Mapping[str, Usage]:
    """Find overriding subclasses and aliases of every target, and the uses of those that are replaced.

    Parsing a large package takes many seconds, so only those files are parsed whose text says that they may
    import a target, derive from its class, or give one of these another name.
    """
    targets = tuple(targets)
    usage = {str(target): Usage() for target in targets}
    mentions = [_mentions(file) for file in map(tree.find, tree.modules()) if file is not None]
    functions = {target.qualname for target in targets if "." not in target.qualname}
    importing = _parsed([item.file for item in mentions if item.imported & functions])
    classes = {target.qualname.partition(".")[0] for target in targets if "." in target.qualname}
    subclasses = _subclasses(tree, classes, mentions)
    for target in targets:
        name, _, attribute = target.qualname.partition(".")
        if not attribute:
            for file in importing:
                if file.module != target.module and _aliases(tree, file, target):
                    usage[str(target)].aliased_in.add(file.module)
        else:
            for module, node in _below(Target(target.module, name), subclasses):
                if bindings(node.body, attribute):
                    usage[str(target)].overridden_by.add(f"{module}:{node.name}")
    for target in replaced:
        if "." not in target.qualname:
            usage[str(target)].uses = _uses(tree, target, mentions)
    return usage


def _uses(tree: SourceTree, target: Target, mentions: Iterable[_Mentions]) -> Uses:
    """The uses of a target that is an object; none where it is only called, handed on or imported."""
    name, home = target.qualname, target.module.rpartition(".")[2]
    using = [
        item
        for item in mentions
        if item.file.module == target.module
        or name in item.imported
        or (home in item.imported and name.encode() in item.file.data)
    ]
    more_than_called = re.compile(rb"\b%s\s*(\[|\.\w)" % name.encode())
    if not any(name in item.renamed or more_than_called.search(item.file.data) for item in using):
        return {}
    found = uses_in(tree, [item.file.module for item in using], target)
    return found if is_object(use for uses in found.values() for use in uses) else {}


_CLASS = re.compile(rb"\bclass[ \t]+\w+[ \t]*(?:\[[^\]]*\])?[ \t]*\(([^:]*)")
_IMPORT = re.compile(rb"\bimport\s*(\([^)]*\)|[^\n]*)")
_RENAMED = re.compile(rb"(\w+)\s+as\b")
_WORD = re.compile(rb"\w+")


class _Mentions(NamedTuple):
    """The words of a file, found without parsing it, that stand where they may matter: rather too many than too few.

    Attributes:
        bases: in the base classes of its classes.
        imported: in its imports.
        renamed: in its imports, before an ``as``.
    """

    file: SourceFile
    bases: frozenset[str]
    imported: frozenset[str]
    renamed: frozenset[str]


def _mentions(file: SourceFile) -> _Mentions:
    def words(texts: Iterable[bytes], pattern: re.Pattern[bytes] = _WORD) -> frozenset[str]:
        return frozenset(word.decode() for text in texts for word in pattern.findall(text))

    imports = _IMPORT.findall(file.data)
    return _Mentions(file, words(_CLASS.findall(file.data)), words(imports), words(imports, _RENAMED))


def _parsed(files: Iterable[SourceFile]) -> list[SourceFile]:
    """Those that this Python can parse; the others count as if they were not there."""
    readable = []
    for file in files:
        with contextlib.suppress(SourceError):
            file.syntax  # noqa: B018
            readable.append(file)
    return readable


_Bases = dict[Target, list[tuple[str, ast.ClassDef]]]


def _subclasses(tree: SourceTree, classes: Iterable[str], mentions: Iterable[_Mentions]) -> _Bases:
    """Direct subclasses by base class, for the classes named and, transitively, their subclasses."""
    wanted = set(classes)
    done: set[str] = set()
    found: _Bases = {}
    while wanted - done:
        new = wanted - done
        done |= new
        for file in _parsed(item.file for item in mentions if (item.bases | item.renamed) & new):
            for node, base in _bases(file):
                if base.rpartition(".")[2] in new:
                    origin = resolved(tree, file, base)
                    found.setdefault(origin, []).append((file.module, node))
                    wanted.add(node.name)
            wanted.update(_renamed(file, new))
    return found


def _renamed(file: SourceFile, names: Iterable[str]) -> Iterator[str]:
    """Under which other names a file imports these."""
    for node in flattened(file.syntax.body):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname for alias in node.names if alias.asname and alias.name in names)


def _bases(file: SourceFile) -> Iterator[tuple[ast.ClassDef, str]]:
    for node in flattened(file.syntax.body):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                yield node, ast.unparse(base).split("[")[0]


def _below(place: Target, subclasses: _Bases) -> Iterator[tuple[str, ast.ClassDef]]:
    seen: set[Target] = set()
    waiting = [place]
    while waiting:
        for module, node in subclasses.get(waiting.pop(), ()):
            child = Target(module, node.name)
            if child not in seen:
                seen.add(child)
                waiting.append(child)
                yield module, node


def _aliases(tree: SourceTree, file: SourceFile, place: Target) -> bool:
    """Whether the file binds the place with a module-level ``from ... import``, directly or through a re-export."""
    for node in flattened(file.syntax.body):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name != place.qualname:
                    continue
                if imported_module(file, node) == place.module:
                    return True
                if resolved(tree, file, alias.asname or alias.name) == place:
                    return True
    return False
