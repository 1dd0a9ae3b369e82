"""Generating contracts from a source tree. The only place that looks at the whole package."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .contract_checking import describe
from .contracts import ABSENT, Contract, ContractSet, ContractStore, site_key
from .errors import RewriteError, SourceError
from .plan import Finding
from .registry import Registry
from .sources import SourceFile, SourceTree
from .syntax import Definition, bindings, count_sites, find_definition, flattened, import_origin, imported_module
from .versions import fits, release_of
from .vocabulary import Add, Retarget, Rewrite, Target, Variant

_MAX_HOPS = 8  # re-exports followed before we give up on a chain


def build(tree: SourceTree, registry: Registry, version: str | None = None) -> ContractSet:
    """The contracts of every target that a variant fitting the tree's version has.

    Targets that do not resolve get no contract: `contract_checking.check` reports them.
    """
    version = version or tree.version
    variants = [item for patch in registry for item in patch.variants if fits(version, item.versions)]
    rewrites = [rewrite for variant in variants for rewrite in variant.rewrites]
    return build_for(tree, rewrites, release_of(version))


def check_overrides(
    tree: SourceTree, registry: Registry, store: ContractStore, version: str = ""
) -> tuple[Finding, ...]:
    """Subclasses that override a target and did not in the nearest known version: they escape the patch.

    Needs a scan of the whole package (seconds), so it is part of a verification, not of a start.

    Args:
        version: the known version the tree is taken for; its own when left out.
    """
    version = version or tree.version
    built = build(tree, registry, version).targets
    findings = []
    for variant in (variant_for(patch.variants, version) for patch in registry):
        if variant is None:
            continue
        nearest = list(store.by_distance(version, variant.versions))
        for rewrite in variant.rewrites:
            known = next((item for item in nearest if rewrite.target in item.targets), None)
            if known is None or rewrite.target not in built:
                continue
            added = set(built[rewrite.target].overridden_by) - set(known.targets[rewrite.target].overridden_by)
            if added:
                text = f"{', '.join(sorted(added))} overrides it since {known.version}"
                findings.append(Finding(rewrite.target, "overridden", text, known.version))
    return tuple(findings)


def build_for(tree: SourceTree, rewrites: Iterable[Rewrite], version: str) -> ContractSet:
    """The contracts of these rewrites' targets."""
    by_target: dict[str, list[Rewrite]] = {}
    for rewrite in rewrites:
        by_target.setdefault(rewrite.target, []).append(rewrite)
    usage = scan_package(tree, {Target.parse(text) for text in by_target})
    targets = {}
    for text, group in by_target.items():
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
        if not adds:
            return None
        return Contract(ABSENT, "", "", tree.relative(file), file.sha256)
    described = describe(definition)
    callable_ = described.kind not in ("class", "variable", "import")
    return Contract(
        kind=described.kind,
        signature=described.signature,
        syntax=described.syntax(),
        file=tree.relative(definition.file),
        sha256=definition.file.sha256,
        sites=_sites(definition, group) if callable_ and not definition.inherited else {},
        overridden_by=tuple(sorted(usage.overridden_by)),
        aliased_in=tuple(sorted(usage.aliased_in)),
    )


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
    """

    overridden_by: set[str] = field(default_factory=set)
    aliased_in: set[str] = field(default_factory=set)


def scan_package(tree: SourceTree, targets: Iterable[Target]) -> Mapping[str, Usage]:
    """Find overriding subclasses and aliases of every target.

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
    return usage


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
                    origin = _resolved(tree, file, base)
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


def _resolved(tree: SourceTree, file: SourceFile, name: str) -> Target:
    """The defining place of a (dotted) name used in a file, through imports and re-exports."""
    for _ in range(_MAX_HOPS):
        first, _, rest = name.partition(".")
        nodes = bindings(file.syntax.body, first)
        full = _imported_as(file, nodes[-1], first, rest) if nodes else None
        if full is None:
            break
        module, name = _split(tree, full)
        next_file = tree.find(module)
        if next_file is None:
            return Target(module, name)
        file = next_file
    return Target(file.module, name)


def _imported_as(file: SourceFile, node: ast.stmt, first: str, rest: str) -> str | None:
    """What ``first.rest`` means where `node` imports ``first``: a dotted path from the top; None for a definition."""
    tail = [rest] if rest else []
    if isinstance(node, ast.Import):
        renamed = next((alias.name for alias in node.names if alias.asname == first), first)
        return ".".join([renamed, *tail])
    origin = import_origin(file, node, first)
    return None if origin is None else ".".join([origin.module, origin.qualname, *tail])


def _split(tree: SourceTree, path: str) -> tuple[str, str]:
    """A dotted path as its longest module and the rest."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        if tree.find(module) is not None:
            return module, ".".join(parts[cut:])
    return ".".join(parts[:-1]), parts[-1]


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
                if _resolved(tree, file, alias.asname or alias.name) == place:
                    return True
    return False
