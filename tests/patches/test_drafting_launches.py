"""What prepares a draft model's inputs takes what each vLLM passes, as the contracts say.

`ascend-patch verify` compares plain functions and those decorated with `Launched`; these are made by other functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from ascend_patch.activation import contracts_folder
from ascend_patch.engine import registry
from ascend_patch.engine.contract_building import variant_for
from ascend_patch.engine.contracts import ContractStore
from ascend_patch.engine.launches import Use, parse_use
from ascend_patch.engine.vocabulary import Replace
from ascend_patch.patches._triton import Launched
from ascend_patch.patches.spec_decode import _drafting

STORE = ContractStore(contracts_folder())
ON_ITS_GRID = {_drafting.copy_and_expand_on_grid: (_drafting.copy_and_expand, ("batch_size", "num_blocks"))}
"""What takes any arguments, where they end up, and what it makes of the grid."""


def launches() -> Iterator[tuple[str, str, Use]]:
    """For each version the names of our stand-ins, and how that vLLM uses what they stand in for."""
    for version in STORE.versions():
        variant, known = variant_for(registry.load()["spec_decode.drafting"].variants, version), STORE.get(version)
        assert variant is not None and known is not None
        for rewrite in variant.rewrites:
            if isinstance(rewrite, Replace):
                for uses in known.targets[rewrite.target].uses.values():
                    yield from ((version, rewrite.by.partition(":")[2], parse_use(text)) for text in uses)


LAUNCHES = [item for item in launches() if item[2].arguments is not None and not item[2].attribute]


def test_every_version_launches_them() -> None:
    assert {version for version, _, _ in LAUNCHES} == set(STORE.versions())


@pytest.mark.parametrize(("version", "name", "use"), LAUNCHES, ids=lambda item: str(item))
def test_a_launch_is_taken(version: str, name: str, use: Use) -> None:
    ours = getattr(_drafting, name)
    assert isinstance(ours, Launched) is bool(use.grid)
    function, from_the_grid = ON_ITS_GRID.get(ours, (getattr(ours, "_function", ours), ()))
    assert not from_the_grid or use.grid == f"[{len(from_the_grid)}]"
    # The signature is that of what is wrapped, without the grid.
    inspect.signature(function).bind(*range(use.positional), **dict.fromkeys((*use.keywords, *from_the_grid)))
