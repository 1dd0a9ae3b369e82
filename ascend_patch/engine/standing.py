"""Which known version a tree is taken for when its number says nothing about the patches.

A number inside some variant's range counts as it is; the contracts then decide patch by patch. For
a release newer than all ranges, an older one, and a build without tags (``0.1.dev1+g5e40263c3``) the number
would leave every patch out, although nearly all of them fit: such a tree is taken for the known version whose
contracts it meets best, and every patch that does not fit is named like any other drift.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from .contracts import ABSENT, Contract, ContractSet, ContractStore
from .errors import SourceError
from .registry import Registry
from .sources import SourceTree
from .versions import fits
from .vocabulary import Target

if TYPE_CHECKING:
    from .contract_checking import Description


class Standing(NamedTuple):
    """The version that decides which variants are looked at.

    Attributes:
        version: the tree's own version, or the known one it is taken for.
        reason: why it is taken for another one; '' when it is its own.
    """

    version: str
    reason: str = ""


def assumed(version: str, by: str) -> Standing | None:
    """What the user says, whatever is found; None when the user says nothing."""
    return Standing(version, f"{by} takes it for {version}") if version else None


def stand(registry: Registry, tree: SourceTree, store: ContractStore) -> Standing:
    """Decide by the number where it lies in a range, else by the contracts.

    Raises:
        SourceError: the tree's version is unknown.
        ContractError: a contract file is unreadable.
    """
    ranges = {variant.versions for patch in registry for variant in patch.variants}
    if any(fits(tree.version, text) for text in ranges):
        return Standing(tree.version)
    newest_first = [item for item in map(store.get, reversed(store.versions())) if item is not None and item.targets]
    best, hits = _most_alike(newest_first, tree) if newest_first else (None, 0)
    if best is None or not hits:  # another package, or one from another age
        return Standing(tree.version)
    return Standing(
        best.version,
        f"{tree.package} {tree.version} is outside the versions these patches name; its sources meet the contracts of "
        f"{best.version} best ({hits} of {len(best.targets)} targets as there)",
    )


def _most_alike(known: list[ContractSet], tree: SourceTree) -> tuple[ContractSet, int]:
    """The set with the largest part of its targets found as they were; of equals the first, and how many they are."""
    look = cache(lambda target: _description(tree, Target.parse(target)))

    def hits(one: ContractSet) -> int:
        return sum(_same(tree, look, target, contract) for target, contract in one.targets.items())

    counted = [(hits(one), one) for one in known]
    number, best = max(counted, key=lambda pair: pair[0] / len(pair[1].targets))
    return best, number


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
