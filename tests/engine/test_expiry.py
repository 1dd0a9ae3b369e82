"""Signs that upstream no longer needs a patch."""

from __future__ import annotations

from ascend_patch.engine.contract_checking import check
from ascend_patch.engine.contracts import ContractStore
from ascend_patch.engine.expiry import signs
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Retarget, Variant
from tests.engine.conftest import Toy

GREET = Replace("toy.core:greet", by="toyfunctions:greet")
WHERE = Retarget("toy.core:where", names={"cuda": "npu"}, sites=2)


def found(toy: Toy, patch: Patch) -> list[str]:
    registry = Registry.from_patches([patch])
    (variant,) = patch.variants
    return signs(patch, toy.tree, variant, check(toy.tree, variant, ContractStore.of([toy.contracts(registry)])))


def patch_with(*expires: Expiry, rewrite: Replace | Retarget = GREET) -> Patch:
    return Patch("toy.a", "because", (Variant(">=1,<2", (rewrite,)),), expires=expires)


def test_something_that_upstream_has_now(toy: Toy) -> None:
    patch = patch_with(Expiry("toy.devices:tpu"))
    assert found(toy, patch) == []
    toy.edit("toy/devices.py", 'name = "npu"', 'name = "npu"\n\nclass tpu:\n    pass\n')
    (sentence,) = found(toy, patch)
    assert sentence.startswith("upstream has toy.devices:tpu (") and sentence.endswith("devices.py:8)")


def test_something_that_upstream_no_longer_mentions(toy: Toy) -> None:
    patch = patch_with(Expiry("toy.core:Engine.label", without="'cuda'"))
    assert found(toy, patch) == []
    toy.edit("toy/core.py", 'return "cuda"\n', 'return "any"  # was "cuda"\n')
    (sentence,) = found(toy, patch)
    assert "toy.core:Engine.label no longer mentions \"'cuda'\"" in sentence


def test_what_is_gone_is_drift_and_not_a_sign(toy: Toy) -> None:
    assert found(toy, patch_with(Expiry("toy.core:nowhere", without="cuda"))) == []
    assert found(toy, patch_with(Expiry("toy.nowhere:x"))) == []


def test_a_retarget_that_finds_nothing_says_so_by_itself(toy: Toy) -> None:
    patch = patch_with(rewrite=WHERE)
    assert found(toy, patch) == []
    toy.edit("toy/core.py", "toy.devices.cuda.name", "'a name'")
    assert found(toy, patch) == ["there is nothing left to retarget"]
    toy.edit("toy/core.py", "'a name' + \" \"", 'toy.devices.cuda.name + " "')
    assert found(toy, patch) == []
