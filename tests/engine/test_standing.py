"""Versions that no range names: newer, older, untagged; and versions that work without a patch."""

from __future__ import annotations

import pytest

from ascend_patch.engine.contracts import ContractStore
from ascend_patch.engine.plan import Plan, Standing
from ascend_patch.engine.planning import make_plan
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.standing import assumed, stand
from ascend_patch.engine.vocabulary import Add, Patch, Replace, State, Variant
from tests.engine.conftest import Toy

GREET = Replace("toy.core:greet", by="toyfunctions:greet")
START = Replace("toy.core:Engine.start", by="toyfunctions:start")
EXTRA = Add("toy.core:extra", by="toyfunctions:extra")


def registry(*rewrites: Replace | Add, required: bool = False) -> Registry:
    patches = [
        Patch(f"toy.p{number}", "because", (Variant(">=1,<2", (rewrite,)),), required=required)
        for number, rewrite in enumerate(rewrites)
    ]
    return Registry.from_patches(patches)


def planned(toy: Toy, patches: Registry, version: str, store: ContractStore) -> Plan:
    toy.version = version
    return make_plan(patches, toy.tree, store)


@pytest.mark.parametrize("version", ["2.0", "1.5.dev3+gabc", "0.1.dev1+g5e40263c3.empty", "0.5", "1.0+empty"])
def test_what_is_the_same_is_patched_whatever_its_number_is(toy: Toy, version: str) -> None:
    patches = registry(GREET, START, EXTRA)
    store = ContractStore.of([toy.contracts(patches)])
    plan = planned(toy, patches, version, store)
    assert [item.state for item in plan] == [State.PENDING] * 3
    assert plan.version == version
    inside = version.startswith("1.")
    assert bool(plan.standing.reason) is not inside
    if not inside:
        assert plan.standing.version == "1.0"
        (warning,) = plan.warnings()
        assert f"toy {version} is outside" in warning and "1.0" in warning


def test_in_a_newer_release_what_changed_drifts_and_the_rest_is_patched(toy: Toy) -> None:
    patches = registry(GREET, START, EXTRA)
    store = ContractStore.of([toy.contracts(patches)])
    toy.edit("toy/core.py", '"hello " + name', '"good day " + name')
    plan = planned(toy, patches, "2.0", store)
    assert [item.state for item in plan] == [State.DRIFTED, State.PENDING, State.PENDING]
    assert "2 of 3 targets" in plan.standing.reason
    assert not plan.problems()
    required = Registry({patch.id: patch.changed(required=True) for patch in patches})
    (problem,) = planned(toy, required, "2.0", store).problems()
    assert "toy.p0 drifted on toy 2.0" in problem and "body changed" in problem


def test_the_version_it_resembles_most_is_chosen(toy: Toy) -> None:
    patches = registry(GREET, START)
    old = toy.contracts(patches)
    toy.edit("toy/core.py", 'return "start " + where', 'return "begin " + where')
    toy.version = "1.1"
    new = toy.contracts(patches)
    toy.edit("toy/core.py", "LIMIT = 8", "LIMIT = 9")
    toy.version = "2.0"
    assert stand(patches, toy.tree, ContractStore.of([old, new])).version == "1.1"
    toy.edit("toy/core.py", 'return "begin " + where', 'return "start " + where')
    assert stand(patches, toy.tree, ContractStore.of([old, new])).version == "1.0"


def in_two_variants(toy: Toy) -> tuple[Registry, ContractStore]:
    """A patch that 1.0 to 1.2 do not need and 1.3 does, and one for all; contracts of 1.2 and of 1.3."""
    patches = Registry.from_patches(
        [
            Patch(
                "toy.greets",
                "because",
                (Variant(">=1,<1.3", unneeded="it greets on the host"), Variant(">=1.3,<2", (GREET,))),
            ),
            Patch("toy.starts", "because", (Variant(">=1,<2", (START,)),)),
        ]
    )
    toy.version = "1.2"
    old = toy.contracts(patches)
    toy.edit("toy/core.py", '"hello " + name', '"good day " + name')
    toy.edit("toy/core.py", 'return "start " + where', 'return "begin " + where')
    toy.version = "1.3"
    return patches, ContractStore.of([old, toy.contracts(patches)])


def test_a_development_build_is_taken_for_the_release_it_leads_to(toy: Toy) -> None:
    patches, store = in_two_variants(toy)
    plan = planned(toy, patches, "1.2.1.dev300+gabc", store)
    assert plan.standing.version == "1.3" and plan.decisions["toy.greets"].accepted
    assert plan.standing.reason == (
        "toy 1.2.1.dev300+gabc is a development build; its sources meet the contracts of 1.3 (2 of 2 targets as "
        "there) better than those of 1.2 (0 of 1 targets)"
    )
    assert plan.warnings() == [plan.standing.reason]


@pytest.mark.parametrize("version", ["1.2.1.dev3+gabc", "1.2.1", "1.2.1+local", "1.3.dev1", "1.4.dev1"])
def test_a_development_build_like_the_release_of_its_number_is_that(toy: Toy, version: str) -> None:
    patches, store = in_two_variants(toy)
    if version.startswith("1.2"):
        toy.write("toy/core.py", toy.files["toy/core.py"].replace("good day ", "hello ").replace("begin ", "start "))
    plan = planned(toy, patches, version, store)
    assert plan.standing == Standing(version)
    assert plan.decisions["toy.greets"].unneeded is version.startswith("1.2")
    assert not plan.warnings()


def test_the_number_of_a_release_is_believed(toy: Toy) -> None:
    patches, store = in_two_variants(toy)
    plan = planned(toy, patches, "1.2.1", store)
    assert plan.standing.reason == "" and plan.decisions["toy.greets"].unneeded
    assert plan.decisions["toy.starts"].accepted  # as in 1.3, which its range knows


def test_another_package_of_that_name_is_not_patched(toy: Toy) -> None:
    patches = registry(GREET, START, required=True)
    store = ContractStore.of([toy.contracts(patches)])
    toy.write("toy/core.py", "nothing = 0\n")
    plan = planned(toy, patches, "7.0", store)
    assert {item.state for item in plan} == {State.SKIPPED} and len(plan.problems()) == 2
    assert "it covers toy >=1,<2" in plan.problems()[0]


def test_without_any_contract_the_number_decides(toy: Toy) -> None:
    plan = planned(toy, registry(GREET), "2.0", ContractStore.of([]))
    assert [item.state for item in plan] == [State.SKIPPED]


def test_the_user_may_say_which_version_to_assume(toy: Toy) -> None:
    patches = registry(GREET)
    store = ContractStore.of([toy.contracts(patches)])
    toy.version = "0.1.dev1"
    standing = assumed("1.0", "VARIABLE")
    plan = make_plan(patches, toy.tree, store, standing=standing)
    assert plan.decisions["toy.p0"].accepted and "VARIABLE takes it for 1.0" in plan.warnings()[0]
    wrong = make_plan(patches, toy.tree, store, standing=assumed("3.0", "VARIABLE"))
    assert wrong.decisions["toy.p0"].state is State.SKIPPED
    assert assumed("", "VARIABLE") is None


def test_a_version_that_works_without_a_patch_satisfies_those_that_require_it(toy: Toy) -> None:
    base = Patch(
        "toy.base",
        "because",
        (Variant(">=0,<1", unneeded="upstream computes it on the host"), Variant(">=1,<2", (GREET,))),
        required=True,
    )
    top = Patch("toy.top", "because", (Variant(">=0,<2", (START,)),), requires=("toy.base",), required=True)
    patches = Registry.from_patches([base, top])
    toy.version = "0.5"
    store = ContractStore.of([toy.contracts(patches)])
    plan = make_plan(patches, toy.tree, store)
    assert plan.decisions["toy.base"].state is State.SKIPPED and plan.decisions["toy.base"].unneeded
    assert plan.decisions["toy.base"].reason == "not needed: upstream computes it on the host"
    assert plan.decisions["toy.top"].accepted and not plan.problems() and not plan.warnings()
    overlay = toy.overlay(base, top, contracts=store.get("0.5"))
    overlay.install()
    overlay.check_start()
    assert {status.id: status.unneeded for status in overlay.status()} == {"toy.base": True, "toy.top": False}
    assert toy.module("toy.core").greet("x") == "hello x!"
    assert toy.module("toy.core").Engine().start() == "patched npu"
