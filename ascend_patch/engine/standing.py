"""Which known version a tree is taken for when its number says nothing about the patches.

A number inside some variant's range counts as it is; the contracts then decide patch by patch. For
a release newer than all ranges, an older one, and a build without tags (``0.1.dev1+g5e40263c3``) the number
would leave every patch out, although nearly all of them fit: such a tree is taken for the known version whose
contracts it meets best, and every patch that does not fit is named like any other drift. So is a development build
that is more like a later release than like the one its number names: ``0.22.1.dev300`` is what came after 0.22.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from .contracts import ABSENT, Contract, ContractSet, ContractStore
from .errors import SourceError
from .plan import Standing
from .registry import Registry
from .sources import SourceTree
from .versions import fits, is_development, newer
from .vocabulary import Target

if TYPE_CHECKING:
    from .contract_checking import Description


def assumed(version: str, by: str) -> Standing | None:
    """What the user says, whatever is found; None when the user says nothing."""
    return Standing(version, f"{by} takes it for {version}") if version else None


def stand(registry: Registry, tree: SourceTree, store: ContractStore) -> Standing:
    """Decide by the number where it lies in a range and is a release's, else by the contracts.

    Raises:
        SourceError: the tree's version is unknown.
        ContractError: a contract file is unreadable.
    """
    if any(fits(tree.version, variant.versions) for patch in registry for variant in patch.variants):
        return _stand_development(registry, tree, store) if is_development(tree.version) else Standing(tree.version)
    newest_first = _sets(store, reversed(store.versions()))
    found = _alike(newest_first, tree)
    best = max(newest_first, key=lambda one: found[one.version] / len(one.targets), default=None)
    if best is None or not found[best.version]:  # another package, or one from another age
        return Standing(tree.version)
    return Standing(
        best.version,
        f"{tree.package} {tree.version} is outside the versions these patches name; its sources meet the contracts of "
        f"{best.version} best ({_out_of(best, found)} as there)",
    )


def _stand_development(registry: Registry, tree: SourceTree, store: ContractStore) -> Standing:
    """A build between two releases: by its number, unless other variants are for the release that it is most like."""
    names = store.versions()
    not_newer = [text for text in names if not newer(text, tree.version)]
    later = [text for text in names if newer(text, tree.version) and any(_choices(registry, text))]
    mine = _choices(registry, tree.version)
    if not not_newer or all(_choices(registry, text) == mine for text in later):
        return Standing(tree.version)
    known = _sets(store, [not_newer[-1], *later])
    found = _alike(known, tree)
    best = max(known, key=lambda one: found[one.version] / len(one.targets), default=None)
    if best is None or best is known[0] or _choices(registry, best.version) == mine:
        return Standing(tree.version)
    return Standing(
        best.version,
        f"{tree.package} {tree.version} is a development build; its sources meet the contracts of {best.version} "
        f"({_out_of(best, found)} as there) better than those of {known[0].version} ({_out_of(known[0], found)})",
    )


def _choices(registry: Registry, version: str) -> list[str]:
    """For each patch the range of the variant for this version, '' when it has none."""
    return [next((item.versions for item in patch.variants if fits(version, item.versions)), "") for patch in registry]


def _sets(store: ContractStore, versions: Iterable[str]) -> list[ContractSet]:
    return [item for item in map(store.get, versions) if item is not None and item.targets]


def _out_of(one: ContractSet, found: Mapping[str, int]) -> str:
    return f"{found[one.version]} of {len(one.targets)} targets"


def _alike(known: Iterable[ContractSet], tree: SourceTree) -> Mapping[str, int]:
    """For each set, by its version, how many of its targets are in the tree as they were."""
    look = cache(lambda target: _description(tree, Target.parse(target)))
    return {one.version: sum(_same(tree, look, *item) for item in one.targets.items()) for one in known}


def _same(tree: SourceTree, look: Callable[[str], Description | None], target: str, contract: Contract) -> bool:
    file = tree.find(Target.parse(target).module)
    if file is None:
        return False
    if file.sha256 == contract.sha256:
        return True
    # A release that changed a file has rarely changed the target in it.
    found = look(target)
    if found is None or contract.kind == ABSENT:
        return found is None and contract.kind == ABSENT
    return (found.kind, found.signature) == (contract.kind, contract.signature) and found.syntax() == contract.syntax


def _description(tree: SourceTree, target: Target) -> Description | None:
    from .contract_checking import describe
    from .syntax import find_definition

    try:
        definition = find_definition(tree, target)
    except SourceError:  # syntax of a newer Python
        return None
    return None if definition is None or definition.inherited else describe(definition)
