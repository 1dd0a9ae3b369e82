"""Signs that upstream no longer needs a patch."""

from __future__ import annotations

import pytest

from ascend_patch.engine.contract_checking import check
from ascend_patch.engine.contracts import ContractStore
from ascend_patch.engine.expiry import signs
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.vocabulary import DeclarationError, Expiry, Patch, Replace, Retarget, Variant
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


def test_something_that_upstream_mentions_now(toy: Toy) -> None:
    patch = patch_with(Expiry("toy.core:Engine.label", mentions="platform"))
    assert found(toy, patch) == []
    toy.edit("toy/core.py", 'return "cuda"\n', "return platform.name\n")
    (sentence,) = found(toy, patch)
    assert sentence.startswith("toy.core:Engine.label mentions 'platform' (")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("return npu_name()", True),
        ("return devices.npu.name", True),
        ("return f'{device}:npu'", True),
        ("return inputs(NPU)", False),
        ("return 1  # npu", False),
        ('"""npu"""; return 1', False),
        ("x: npu = 1; return x", False),
        ("def f(npu_: 'npu') -> npu: return 1", True),
        ("def f(x: npu) -> npu: return 1", False),
    ],
)
def test_what_counts_as_mentioning(toy: Toy, now: str, expected: bool) -> None:
    toy.edit("toy/core.py", 'return "cuda"\n', f"{now}\n")
    signs_ = found(toy, patch_with(Expiry("toy.core:Engine.label", mentions="npu")))
    gone = found(toy, patch_with(Expiry("toy.core:Engine.label", without="npu")))
    assert (bool(signs_), bool(gone)) == (expected, not expected)


def test_what_a_class_inherits_is_not_its_own(toy: Toy) -> None:
    patch = patch_with(Expiry("toy.core:Small.start"))
    assert found(toy, patch) == []
    toy.edit("toy/core.py", "class Small(Engine):", "class Small(Engine):\n    def start(self): ...\n")
    assert len(found(toy, patch)) == 1


def test_each_sign_counts_for_itself(toy: Toy) -> None:
    toy.edit("toy/core.py", "LIMIT = 8", "LIMIT = (8, npu)")
    patch = patch_with(
        Expiry("toy.nowhere:x"), Expiry("toy.core:LIMIT", mentions="npu"), Expiry("toy.core:LIMIT", without="9")
    )
    assert [sentence.partition(" (")[0] for sentence in found(toy, patch)] == [
        "toy.core:LIMIT mentions 'npu'",
        "toy.core:LIMIT no longer mentions '9'",
    ]


def test_signs_are_declared_in_one_way() -> None:
    with pytest.raises(DeclarationError, match="make two of it"):
        Expiry("toy.core:greet", without="a", mentions="b")
    with pytest.raises(DeclarationError, match=r"package\.module:qualified\.name"):
        Expiry("toy.core.greet")
    with pytest.raises(DeclarationError, match="says why there are none"):
        Patch("toy.a", "because", (Variant(">=1,<2", (GREET,)),), expires=(Expiry("toy.core:x"),), no_sign="none")


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
