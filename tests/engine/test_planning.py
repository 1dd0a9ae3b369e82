"""Which patches take part: selection, version gates, conflicts, features, declarations; and the fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ascend_patch.engine.installed import distribution_version
from ascend_patch.engine.plan import Plan, Selection
from ascend_patch.engine.registry import Registry, load
from ascend_patch.engine.versions import fits, unmet
from ascend_patch.engine.vocabulary import Add, DeclarationError, Patch, Replace, State, Target, Variant

if TYPE_CHECKING:
    from conftest import Toy

GREET = Replace("toy.core:greet", by="toyfunctions:greet")
START = Replace("toy.core:Engine.start", by="toyfunctions:start")
STOP = Replace("toy.core:Engine.stop", by="toyfunctions:stop")
GONE = Replace("toy.core:gone", by="toyfunctions:greet")


def patch_of(name: str, *rewrites: Any, versions: str = ">=1,<2", needs: tuple[str, ...] = (), **more: Any) -> Patch:
    return Patch(f"toy.{name}", "because", (Variant(versions, rewrites or (GREET,), needs),), **more)


def states(toy: Toy, *patches: Patch, **selection: Any) -> dict[str, str]:
    chosen = {key: frozenset(f"toy.{name}" for name in names) for key, names in selection.items()}
    plan = toy.plan(Registry.from_patches(patches), Selection(**chosen))
    return {item.patch.id.removeprefix("toy."): item.state.value for item in plan}


def test_selection(toy: Toy) -> None:
    on, off = patch_of("on", GREET), patch_of("off", START, on=False)
    assert states(toy, on, off) == {"on": "pending", "off": "disabled"}
    assert states(toy, on, off, enable={"off"}) == {"on": "pending", "off": "pending"}
    assert states(toy, on, off, only={"off"}) == {"on": "disabled", "off": "pending"}
    assert states(toy, on, off, disable={"on"}) == {"on": "disabled", "off": "disabled"}


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("1.0", ">=1,<2", True),
        ("2.0", ">=1,<2", False),
        ("0.9", ">=1,<2", False),
        ("1.0+local.build", "==1.0", True),
        ("0.14.1.dev3+g123", ">=0.14,<0.15", True),
        ("0.14.0rc1", ">=0.14,<0.15", True),
        ("0.15.0rc1", ">=0.14,<0.15", False),
        ("0.15.0.dev7", ">=0.14,<0.15", False),
        ("0.1.dev1+g5e40263c3.empty", ">=0.14,<0.15", False),
        ("1.0.post2", "==1.0", True),
    ],
)
def test_versions(version: str, specifier: str, expected: bool) -> None:
    assert fits(version, specifier) is expected


def test_a_version_out_of_range_skips_the_patch_and_says_its_range(toy: Toy) -> None:
    toy.version = "2.0"
    plan = toy.plan(Registry.from_patches([patch_of("a", required=True)]))
    decision = plan.decisions["toy.a"]
    assert decision.state is State.SKIPPED and ">=1,<2" in decision.reason
    (problem,) = plan.problems()
    assert "toy.a" in problem and "toy 2.0" in problem
    assert problem.endswith("see 'ascend-patch show toy.a'"), "there is no variant that 'diff' could compare"


def test_the_fitting_variant_is_taken(toy: Toy) -> None:
    patch = Patch("toy.a", "because", (Variant(">=0,<1", (GONE,)), Variant(">=1,<2", (GREET,))))
    decision = toy.plan(Registry.from_patches([patch])).decisions["toy.a"]
    assert decision.accepted and decision.variant is not None and decision.variant.rewrites == (GREET,)


def test_needs_of_other_distributions(toy: Toy) -> None:
    (toy.folder / "Some_Thing-1.5.dist-info").mkdir()
    (toy.folder / "Some_Thing-1.5.dist-info/METADATA").touch()
    assert distribution_version("some-thing") == "1.5" and distribution_version("something") is None
    assert unmet(("some.thing>=1,<2",)) == []
    found = states(toy, patch_of("a", needs=("some-thing>=2",)), patch_of("b", START, needs=("nothing-like-it",)))
    assert found == {"a": "skipped", "b": "skipped"}
    reasons = [item.reason for item in toy.plan(Registry.from_patches([patch_of("a", needs=("some-thing>=2",))]))]
    assert reasons == ["it needs some-thing>=2 (installed: 1.5)"]


def test_conflicts(toy: Toy) -> None:
    a, b = patch_of("a", GREET), patch_of("b", START, conflicts=("toy.a",), on=False)
    assert states(toy, a, b) == {"a": "pending", "b": "disabled"}
    assert states(toy, a, b, enable={"b"}) == {"a": "skipped", "b": "pending"}
    both = b.changed(on=True)
    assert sorted(states(toy, a, both).values()) == ["pending", "skipped"]


def test_two_patches_cannot_fill_one_slot(toy: Toy) -> None:
    assert states(toy, patch_of("a", GREET), patch_of("b", GREET)) == {"a": "pending", "b": "skipped"}
    assert states(toy, patch_of("a", GREET), patch_of("b", GREET), disable={"a"}) == {"a": "disabled", "b": "pending"}
    add = Add("toy.core:extra", by="toyfunctions:extra")
    assert states(toy, patch_of("a", add), patch_of("b", add)) == {"a": "pending", "b": "skipped"}


def test_features_stand_or_fall_together(toy: Toy) -> None:
    base = patch_of("base", GREET)
    top = patch_of("top", GONE, requires=("toy.base",))
    assert states(toy, base, top) == {"base": "skipped", "top": "drifted"}
    assert states(toy, base.changed(required=True), top) == {"base": "pending", "top": "drifted"}
    user = patch_of("user", STOP, requires=("toy.base",))
    assert states(toy, base, top, user) == {"base": "pending", "top": "drifted", "user": "pending"}
    assert states(toy, base, user, disable={"base"}) == {"base": "disabled", "user": "skipped"}
    assert states(toy, base, user, disable={"user"}) == {"base": "pending", "user": "disabled"}
    gone = patch_of("base", GONE)
    chain = patch_of("zchain", START, requires=("toy.user",))
    assert states(toy, gone, user, chain) == {"base": "drifted", "user": "skipped", "zchain": "skipped"}


def test_a_required_patch_whose_requirement_drifted_is_a_problem(toy: Toy) -> None:
    plan = toy.plan(
        Registry.from_patches([patch_of("base", GONE), patch_of("top", GREET, requires=("toy.base",), required=True)])
    )
    (problem,) = plan.problems()
    assert "toy.top" in problem and "toy.base" in problem and "drifted" in problem


BAD: dict[str, Callable[[], object]] = {
    "circle": lambda: Registry.from_patches(
        [patch_of("a", requires=("toy.b",)), patch_of("b", requires=("toy.c",)), patch_of("c", requires=("toy.a",))]
    ),
    "does not exist": lambda: Registry.from_patches([patch_of("a", requires=("toy.b",))]),
    "declared twice": lambda: Registry.from_patches([patch_of("a"), patch_of("a")]),
    "conflicts with it": lambda: Registry.from_patches(
        [patch_of("a", requires=("toy.b",)), patch_of("b", conflicts=("toy.a",))]
    ),
    "does not hold": lambda: Registry.from_patches(
        [patch_of("a", Replace("toy.core:greet", by=":nowhere")).changed(module="json")]
    ),
    "lower and an upper bound": lambda: Variant(">=1", (GREET,)),
    "rewrites nothing": lambda: Variant("==1", ()),
    "why": lambda: Patch("toy.a", " ", (Variant("==1", (GREET,)),)),
    "area.name": lambda: Patch("Toy", "because", (Variant("==1", (GREET,)),)),
    "package.module": lambda: Target.parse("toy.core.greet"),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_declarations(words: str) -> None:
    with pytest.raises(DeclarationError, match=words):
        BAD[words]()


def test_the_order_follows_the_requirements() -> None:
    patches = [patch_of("a", requires=("toy.z",)), patch_of("b"), patch_of("z", requires=("toy.m",)), patch_of("m")]
    registry = Registry.from_patches(patches)
    assert registry.ids == ("toy.m", "toy.z", "toy.a", "toy.b")
    assert registry.feature("toy.a") == ("toy.m", "toy.z", "toy.a")
    assert registry.dependents("toy.m") == ("toy.z", "toy.a")
    assert registry.suggest("toy.bb") == "toy.b" and registry.suggest("xxxxxxxx") == ""


def test_loading_a_folder_of_patches(toy: Toy) -> None:
    toy.write("toypatches/__init__.py", "")
    toy.write("toypatches/area/__init__.py", "")
    toy.write("toypatches/area/_heavy.py", "import toy.core\nclass Thing(toy.core.Engine): ...\n")
    declaration = """
        from ascend_patch.engine.vocabulary import Patch, Replace, Variant
        PATCH = Patch("area.one", "because", (Variant(">=1,<2", (
            Replace("toy.core:greet", by=":greet"),
            Replace("toy.core:Engine", by="toypatches.area._heavy:{name}"),)),), no_sign="a toy")
        def greet(name, punctuation="!"): ...
    """
    toy.write("toypatches/area/one.py", declaration.format(name="Thing"))
    registry = load("toypatches")
    assert [(patch.id, patch.module) for patch in registry] == [("area.one", "toypatches.area.one")]
    assert registry.missing_references() == []
    for name, text, words in (
        ("two", "x = 1", "has no PATCH"),
        ("three", "import nowhere_to_be_found", "cannot be imported"),
        (
            "four",
            declaration.format(name="Thing").replace("area.one", "area.four").replace(', no_sign="a toy"', ""),
            "does not say how to recognise that upstream no longer needs it: declare expires",
        ),
    ):
        toy.write(f"toypatches/area/{name}.py", text)
        with pytest.raises(DeclarationError, match=f"{name}.*{words}"):
            load("toypatches")
        (toy.folder / f"toypatches/area/{name}.py").unlink()


def test_references_into_heavy_modules_are_checked_without_importing_them(toy: Toy) -> None:
    toy.write("toypatches.py", "raise RuntimeError('imported')\nclass Thing: ...\n")
    registry = Registry.from_patches(
        [
            patch_of("a", Replace("toy.core:greet", by="toypatches:Thing")),
            patch_of("b", Replace("toy.core:greet", by="toypatches:Nothing")),
            patch_of("c", Replace("toy.core:greet", by="no_such_module:f")),
        ]
    )
    assert registry.missing_references() == [
        "toy.b: toypatches:Nothing does not exist",
        "toy.c: no_such_module:f does not exist",
    ]


def test_the_fingerprint_names_the_patched_behaviour(toy: Toy) -> None:
    def plan(*patches: Patch, **selection: Any) -> Plan:
        return toy.plan(Registry.from_patches(patches), Selection(**selection))

    a, b = patch_of("a", GREET), patch_of("b", START)
    first = plan(a, b).fingerprint
    assert plan(b, a).fingerprint == first, "the order of declaration does not matter"
    assert plan(a).fingerprint != first
    assert plan(a, b, disable=frozenset({"toy.b"})).fingerprint == plan(a).fingerprint
    assert plan(a.changed(why="other words"), b).fingerprint == first
    toy.version = "1.0.1"
    assert plan(a, b).fingerprint != first
    toy.version = "1.0"
    toy.write("toyfunctions.py", toy.files["toyfunctions.py"].replace('"patched "', '"changed "'))
    assert plan(a, b).fingerprint != first, "our own functions' source counts"
    assert json.dumps(first)
