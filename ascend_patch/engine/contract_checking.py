"""Does a source tree still look the way a patch expects? Answered from the sources alone.

While a target's file is byte for byte a known one, its contract is looked up and nothing is
parsed. Otherwise the file is parsed and the target compared with the contracts of the versions
inside the variant's range: one that matches is enough, so a release between two known ones
needs no contract of its own. The same goes for the further files that a contract speaks of: those that launch a
kernel which is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING

from ascend_patch.value import Value

from .contracts import ABSENT, Contract, ContractStore, site_key
from .errors import RewriteError, SourceError
from .plan import UNCHECKED, Finding
from .sources import SourceFile, SourceTree, module_name
from .vocabulary import Add, Register, Replace, Retarget, Rewrite, Target, Variant, Wrap

if TYPE_CHECKING:
    from .syntax import Definition

# `syntax` is imported where it is needed: as long as every file is a known one, it is not.

Known = Callable[[], Iterator[tuple[str, Contract]]]
"""A target's contracts, nearest version first: an iterator, because each further one costs reading a file."""


def check(tree: SourceTree, variant: Variant, store: ContractStore, version: str = "") -> tuple[Finding, ...]:
    """Compare every target of a variant with the tree. Reads and, where it must, parses only the targets' files.

    Args:
        version: the known version the tree is taken for; its own when left out.
    """

    def known(target: str) -> Iterator[tuple[str, Contract]]:
        for item in store.by_distance(version or tree.version, variant.versions):
            if target in item.targets:
                yield item.version, item.targets[target]

    return tuple(_check_readable(tree, rewrite, partial(known, rewrite.target)) for rewrite in variant.rewrites)


def _check_readable(tree: SourceTree, rewrite: Rewrite, known: Known) -> Finding:
    try:
        return _check_rewrite(tree, rewrite, known)
    except SourceError as error:  # syntax of a newer Python, a damaged file
        return Finding(rewrite.target, "unreadable", str(error))


def _check_rewrite(tree: SourceTree, rewrite: Rewrite, known: Known) -> Finding:
    place = rewrite.place
    file = tree.find(place.module)
    if file is None:
        return Finding(rewrite.target, "missing", f"module {place.module} does not exist")
    by_file = _known_file(tree, file, rewrite, known)
    if by_file is not None:
        return by_file
    from .syntax import find_definition

    definition = find_definition(tree, place)
    if isinstance(rewrite, Add):
        return _check_add(tree, rewrite, definition)
    if definition is None:
        return _missing(tree, rewrite, file)
    if isinstance(rewrite, Retarget):
        return _check_sites(rewrite, definition, known)
    described = describe(definition)
    beyond = _beyond(tree, rewrite, definition)
    nearest: tuple[str, str, str] | None = None
    for version, contract in known():
        difference = _difference(rewrite, contract, described) or beyond(contract)
        if difference is None:
            return Finding(rewrite.target, against=version)
        nearest = nearest or (version, *difference)
    if nearest is None:
        return Finding(
            rewrite.target, UNCHECKED, "no contract in the variant's range: run 'ascend-patch verify --update'"
        )
    version, problem, text = nearest
    if described.kind == "import" and problem == "kind":
        return _moved(rewrite, file, definition, version)
    return Finding(rewrite.target, problem, f"{text} since {version}", version)


class Description(Value):
    """What a contract says about a definition itself."""

    kind: str
    signature: str
    syntax: Callable[[], str]


def describe(definition: Definition) -> Description:
    """Kind, signature and (computed when asked for) syntax fingerprint."""
    from .syntax import fingerprint, signature_of

    return Description(definition.kind, signature_of(definition), lru_cache(lambda: fingerprint(definition)))


def _known_file(tree: SourceTree, file: SourceFile, rewrite: Rewrite, known: Known) -> Finding | None:
    """The verdict when the file is byte for byte one whose contract we have, else None."""
    for version, contract in known():
        if contract.sha256 != file.sha256 or contract.file != tree.relative(file):
            continue
        if isinstance(rewrite, Replace) and not all(_is_known(tree, *item) for item in contract.also.items()):
            continue
        if isinstance(rewrite, Retarget):
            counts = contract.sites.get(site_key(rewrite))
            if counts is None:
                return None  # the declaration is newer than the contract: count again
            return _sites_finding(rewrite, counts, version)
        if isinstance(rewrite, Add) != (contract.kind == ABSENT):
            return None
        return Finding(rewrite.target, against=version)
    return None


def _is_known(tree: SourceTree, name: str, sha256: str) -> bool:
    file = tree.find(module_name(name))
    return file is not None and file.sha256 == sha256 and tree.relative(file) == name


def _check_add(tree: SourceTree, rewrite: Rewrite, definition: Definition | None) -> Finding:
    from .syntax import find_holder

    if definition is None or definition.inherited:  # what a base class has may be overridden
        holder, _, _ = rewrite.place.qualname.rpartition(".")
        kind = find_holder(tree, rewrite.place) if holder else "class"
        if not kind:
            return Finding(rewrite.target, "missing", f"{rewrite.place.module} has no {holder}")
        if kind != "class":
            return Finding(rewrite.target, "kind", f"{holder} is a {kind}, not a class")
        return Finding(rewrite.target)
    return Finding(rewrite.target, "exists", f"upstream now has it ({definition.file.path}:{definition.line})")


def _check_sites(rewrite: Retarget, definition: Definition, known: Known) -> Finding:
    if definition.inherited:
        return Finding(rewrite.target, "moved", f"moved to the base class {definition.file.module}:{definition.owner}")
    if definition.kind in ("class", "variable", "import"):
        if definition.kind == "import":
            return _moved(rewrite, definition.file, definition, "")
        return Finding(rewrite.target, "kind", f"it is a {definition.kind}, not a function")
    from .syntax import count_sites

    against, _ = next(known(), ("", None))
    try:
        return _sites_finding(rewrite, count_sites(definition, rewrite), against)
    except RewriteError as error:
        return Finding(rewrite.target, "sites", str(error), against)


def _sites_finding(rewrite: Retarget, counts: Iterable[int], against: str) -> Finding:
    counts = tuple(counts)
    if any(count in rewrite.allowed_sites for count in counts):
        return Finding(rewrite.target, against=against)
    found = " or ".join(map(str, counts)) or "0"
    expected = " or ".join(map(str, rewrite.allowed_sites))
    return Finding(rewrite.target, "sites", f"{found} sites to retarget instead of {expected}", against)


def _difference(rewrite: Rewrite, contract: Contract, found: Description) -> tuple[str, str] | None:
    """The first difference that matters to this kind of rewrite, as (problem, text)."""
    if contract.kind != found.kind:
        return "kind", f"it was a {contract.kind} and is a {found.kind}"
    if isinstance(rewrite, Register):
        return None
    if contract.signature != found.signature:
        from .signatures import changes

        return "signature", "; ".join(changes(contract.signature, found.signature))
    if isinstance(rewrite, Replace) and contract.syntax != found.syntax():
        return "body", "body changed"
    assert isinstance(rewrite, (Replace, Wrap))
    return None


def _beyond(tree: SourceTree, rewrite: Rewrite, definition: Definition) -> Callable[[Contract], tuple[str, str] | None]:
    """The same for what a replaced definition is not itself: the kernels that it launches, and who launches it."""
    if not isinstance(rewrite, Replace):
        return lambda _: None
    from .launches import kernel_changes, kernels_of, use_changes, uses_in

    kernels = cache(lambda: {name: kernel.syntax for name, kernel in kernels_of(tree, definition).items()})
    uses = cache(lambda module: uses_in(tree, [module], rewrite.place))

    def difference(contract: Contract) -> tuple[str, str] | None:
        changed = kernel_changes(contract.kernels, kernels())
        if changed:
            return "kernel", "; ".join(changed)
        if contract.uses:
            modules = looked_through(rewrite.place, contract)
            now = {site: found for module in modules for site, found in uses(module).items()}
            changed = use_changes(contract.uses, now)
        return ("launch", "; ".join(changed)) if changed else None

    return difference


def looked_through(place: Target, contract: Contract) -> list[str]:
    """The modules in which uses of a replaced target are looked for: its own, and those that had it."""
    from .launches import modules_of

    return sorted({place.module, *contract.aliased_in, *modules_of(contract.uses)})


def _missing(tree: SourceTree, rewrite: Rewrite, file: SourceFile) -> Finding:
    from .syntax import bindings

    place = rewrite.place
    outer, _, rest = place.qualname.partition(".")
    nodes = bindings(file.syntax.body, outer)
    if nodes and rest:
        return Finding(rewrite.target, "missing", f"{outer} has no attribute {rest}")
    return Finding(rewrite.target, "missing", f"{place.module} has no {outer}")


def _moved(rewrite: Rewrite, file: SourceFile, definition: Definition, against: str) -> Finding:
    from .syntax import import_origin

    origin = import_origin(file, definition.nodes[-1], rewrite.place.qualname.rpartition(".")[2])
    where = f"moved to {origin}" if origin else "it is now imported from elsewhere"
    return Finding(rewrite.target, "moved", where, against)


def find_moved(tree: SourceTree, place: Target) -> tuple[str, ...]:
    """Modules of the tree that now define the target's outermost name. Reads every file: for commands only."""
    from .syntax import bindings

    name = place.qualname.partition(".")[0]
    needles = (f"def {name}(".encode(), f"class {name}(".encode(), f"class {name}:".encode())
    found = []
    for module in tree.modules():
        file = tree.find(module)
        candidate = file is not None and module != place.module and any(needle in file.data for needle in needles)
        if candidate and file is not None and bindings(file.syntax.body, name):
            found.append(module)
    return tuple(found)
