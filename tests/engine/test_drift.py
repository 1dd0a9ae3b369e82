"""What an upstream change does to a patch: accepted, or drifted with the change in words. Nothing is imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ascend_patch.engine.contract_building import build, check_usage
from ascend_patch.engine.contract_checking import find_moved
from ascend_patch.engine.contracts import Contract, ContractSet, ContractStore, site_key
from ascend_patch.engine.errors import ContractError
from ascend_patch.engine.plan import Decision, Selection
from ascend_patch.engine.planning import make_plan
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.vocabulary import (
    Add,
    Patch,
    Register,
    Replace,
    Retarget,
    Rewrite,
    State,
    Target,
    Variant,
    Wrap,
)

if TYPE_CHECKING:
    from conftest import Toy

REPLACE = Replace("toy.core:greet", by="toyfunctions:greet")
WRAP = Wrap("toy.core:greet", by="toyfunctions:louder")
METHOD = Replace("toy.core:Engine.stop", by="toyfunctions:stop")
RETARGET = Retarget("toy.core:where", names={"cuda": "npu"}, sites=2)
REGISTER = Register("toy.core:REGISTRY", key="ours", value="toyfunctions:Thing")
ADD = Add("toy.core:extra", by="toyfunctions:extra")
METHOD_ADDED = Add("toy.core:Small.more", by="toyfunctions:extra")
INHERITED = Replace("toy.core:Small.start", by="toyfunctions:start")


def key(rewrite: Rewrite) -> str:
    return f"{rewrite.kind} {rewrite.target}"


@dataclass(frozen=True)
class Change:
    """An upstream change and the rewrites that must notice it, with a word of the explanation."""

    name: str
    make: Callable[[Toy], None]
    noticed: Mapping[str, str]

    def __str__(self) -> str:
        return self.name


def move(toy: Toy) -> None:
    toy.edit("toy/core.py", "def greet(name,", "def _gone(name,")
    toy.write("toy/hello.py", 'def greet(name, punctuation="!"):\n    return "hello " + name + punctuation\n')
    toy.edit("toy/core.py", "import functools", "import functools\nfrom toy.hello import greet")


def import_small(toy: Toy) -> None:
    toy.write("toy/small.py", 'class Small:\n    def start(self, where="cuda"): ...\n')
    toy.edit("toy/core.py", "class Small(", "from toy.small import Small\n\nclass Tiny(")


EVERY: tuple[Rewrite, ...] = (REPLACE, WRAP, METHOD, RETARGET, REGISTER, ADD, METHOD_ADDED, INHERITED)
CHANGES = [
    Change("comment", lambda toy: toy.edit("toy/core.py", "LIMIT = 8", "LIMIT = 8  # eight"), {}),
    Change("docstring", lambda toy: toy.edit("toy/core.py", "Say hello.", "Greet."), {}),
    Change("annotation", lambda toy: toy.edit("toy/core.py", "def greet(name,", "def greet(name: str,"), {}),
    Change(
        "layout",
        lambda toy: toy.edit("toy/core.py", '"hello " + name + punctuation', '("hello " +\n name + punctuation)'),
        {},
    ),
    Change(
        "renamed function",
        lambda toy: toy.edit("toy/core.py", "def greet(", "def welcome("),
        {key(REPLACE): "no greet", key(WRAP): "no greet"},
    ),
    Change(
        "renamed method",
        lambda toy: toy.edit(
            "toy/core.py", 'def stop(self):\n        return "stop"', 'def halt(self):\n        return "stop"'
        ),
        {key(METHOD): "Engine has no attribute stop"},
    ),
    Change(
        "renamed module",
        lambda toy: (toy.folder / "toy/core.py").rename(toy.folder / "toy/heart.py") and None,
        dict.fromkeys(map(key, EVERY), "module toy.core does not exist"),
    ),
    Change("moved", move, {key(REPLACE): "moved to toy.hello:greet", key(WRAP): "moved to toy.hello:greet"}),
    Change(
        "new parameter",
        lambda toy: toy.edit("toy/core.py", 'punctuation="!"):', 'punctuation="!", twice=False):'),
        {key(REPLACE): "parameter 'twice' added", key(WRAP): "parameter 'twice' added"},
    ),
    Change(
        "lost parameter",
        lambda toy: toy.edit(
            "toy/core.py", 'def greet(name, punctuation="!"):', 'def greet(name):\n    punctuation = "!"'
        ),
        {key(REPLACE): "parameter 'punctuation' removed", key(WRAP): "parameter 'punctuation' removed"},
    ),
    Change(
        "new default",
        lambda toy: toy.edit("toy/core.py", 'punctuation="!"):', 'punctuation="?"):'),
        {key(REPLACE): "default of 'punctuation' changed from '!' to '?'", key(WRAP): "default of 'punctuation'"},
    ),
    Change(
        "keyword only",
        lambda toy: toy.edit("toy/core.py", "greet(name, punct", "greet(name, *, punct"),
        {key(REPLACE): "became keyword-only", key(WRAP): "became keyword-only"},
    ),
    Change(
        "positional only",
        lambda toy: toy.edit("toy/core.py", 'punctuation="!"):', 'punctuation="!", /):'),
        dict.fromkeys(
            (key(REPLACE), key(WRAP)),
            "parameter 'name' became positional-only; parameter 'punctuation' became positional-only",
        ),
    ),
    Change(
        "reordered",
        lambda toy: toy.edit("toy/core.py", 'greet(name, punctuation="!")', "greet(punctuation, name)"),
        {key(REPLACE): "default of 'punctuation' changed", key(WRAP): "default of 'punctuation' changed"},
    ),
    Change(
        "body",
        lambda toy: toy.edit("toy/core.py", '"hello " + name', '"good day " + name'),
        {key(REPLACE): "body changed"},
    ),
    Change(
        "body of a base method",
        lambda toy: toy.edit("toy/core.py", '"start " + where', '"begin " + where'),
        {key(INHERITED): "body changed"},
    ),
    Change(
        "decorated",
        lambda toy: toy.edit("toy/core.py", "def greet(", "@functools.cache\ndef greet("),
        {key(REPLACE): "body changed"},
    ),
    Change(
        "became static",
        lambda toy: toy.edit(
            "toy/core.py",
            'def stop(self):\n        return "stop"',
            '@staticmethod\n    def stop():\n        return "stop"',
        ),
        {key(METHOD): "it was a method and is a staticmethod"},
    ),
    Change(
        "became a function",
        lambda toy: toy.edit("toy/core.py", 'REGISTRY = {"known": "upstream"}', "def REGISTRY(): ..."),
        {key(REGISTER): "it was a variable and is a function"},
    ),
    Change(
        "one more entry",
        lambda toy: toy.edit("toy/core.py", '"known": "upstream"', '"known": "upstream", "more": "x"'),
        {},
    ),
    Change(
        "more sites",
        lambda toy: toy.edit(
            "toy/core.py",
            "return toy.devices.cuda.name\n",
            "return (lambda: toy.devices.cuda.name)() or toy.devices.cuda.name\n",
        ),
        {key(RETARGET): "3 sites to retarget instead of 2"},
    ),
    Change(
        "no site",
        lambda toy: toy.edit("toy/core.py", "toy.devices.cuda.name", "toy.devices.npu.name"),
        {key(RETARGET): "0 sites to retarget instead of 2"},
    ),
    Change("rewritten around the sites", lambda toy: toy.edit("toy/core.py", '" " + "cuda:"', '" at " + "cuda:"'), {}),
    Change(
        "upstream has it now",
        lambda toy: toy.edit("toy/core.py", "LIMIT = 8", "LIMIT = 8\nextra = 1"),
        {key(ADD): "upstream now has it"},
    ),
    Change(
        "a class that gets an attribute is renamed",
        lambda toy: toy.edit("toy/core.py", "class Small(", "class Tiny("),
        {key(METHOD_ADDED): "toy.core has no Small", key(INHERITED): "toy.core has no Small"},
    ),
    Change(
        "a class that gets an attribute is a function now",
        lambda toy: toy.edit(
            "toy/core.py",
            'class Small(Engine):\n    def stop(self):\n        return "small " + super().stop()',
            "def Small(): ...",
        ),
        {key(METHOD_ADDED): "Small is a function, not a class", key(INHERITED): "Small has no attribute start"},
    ),
    Change(
        "a class that gets an attribute is imported",
        import_small,
        {key(INHERITED): "body changed"},
    ),
    Change(
        "syntax that this Python does not know",
        lambda toy: toy.edit("toy/core.py", "LIMIT = 8", "LIMIT = 8 whatever"),
        dict.fromkeys(map(key, EVERY), "toy/core.py cannot be parsed by this Python: invalid syntax"),
    ),
    Change("behind an if", lambda toy: toy.edit("toy/core.py", "LIMIT = 8", "if True:\n    LIMIT = 8"), {}),
]


def registry_of(*rewrites: Rewrite, **more: object) -> Registry:
    return Registry.from_patches(
        Patch(f"toy.p{n}", "because", (Variant(">=1,<2", (rewrite,)),), **more)  # type: ignore[arg-type]
        for n, rewrite in enumerate(rewrites)
    )


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_drift(toy: Toy, change: Change) -> None:
    registry = registry_of(*EVERY)
    known = toy.contracts(registry)
    assert all(decision.accepted for decision in toy.plan(registry, contracts=known))
    change.make(toy)
    toy.version = "1.1"
    decisions = {key(item.variant.rewrites[0]): item for item in toy.plan(registry, contracts=known) if item.variant}
    drifted = {rewrite: item.reason for rewrite, item in decisions.items() if item.state is State.DRIFTED}
    assert drifted.keys() == change.noticed.keys(), drifted
    for rewrite, words in change.noticed.items():
        assert words in drifted[rewrite] and rewrite.split()[1] in drifted[rewrite]
    assert {item.state for item in decisions.values()} <= {State.PENDING, State.DRIFTED}
    assert not any(name.partition(".")[0] == "toy" for name in sys.modules), "the verdict must not import the package"


def test_every_rewrite_is_noticed_by_some_change() -> None:
    assert {rewrite for change in CHANGES for rewrite in change.noticed} == set(map(key, EVERY))


def test_nothing_is_parsed_while_files_are_known(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_of(*EVERY)
    known = toy.contracts(registry)
    import ast

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(ast, "parse", refuse)
    plan = toy.plan(registry, contracts=known)
    assert all(item.accepted and not item.unchecked for item in plan)
    toy.edit("toy/core.py", "LIMIT = 8", "LIMIT = 9")
    with pytest.raises(AssertionError, match="parsed"):
        toy.plan(registry, contracts=known)


def test_a_contract_of_any_version_in_range_will_do(toy: Toy) -> None:
    registry = registry_of(REPLACE)
    old = toy.contracts(registry)
    toy.edit("toy/core.py", '"hello "', '"good day "')
    newer = ContractSet("1.4", toy.contracts(registry).targets)
    outside = ContractSet("2.0", newer.targets)
    for store, state in (([old, newer], State.PENDING), ([old, outside], State.DRIFTED)):
        for version in ("1.2", "1.4", "1.5", "1.4.1.dev3+gabc"):
            toy.version = version
            plan = make_plan(registry, toy.tree, ContractStore.of(store))
            assert plan.decisions["toy.p0"].state is state, (version, plan.decisions)


def test_the_change_is_told_against_the_nearest_version(toy: Toy) -> None:
    registry = registry_of(REPLACE)
    sets = []
    for version, word in (("1.1", "a"), ("1.3", "b"), ("1.6", "c")):
        toy.write("toy/core.py", f"def greet(name):\n    return {word!r}\n")
        sets.append(ContractSet(version, toy.contracts(registry).targets))
    toy.write("toy/core.py", "def greet(name):\n    return 'd'\n")
    toy.version = "1.4"
    plan = make_plan(registry, toy.tree, ContractStore.of(sets))
    assert plan.decisions["toy.p0"].reason.endswith("body changed since 1.3")


def test_targets_without_a_contract_are_accepted_loudly(toy: Toy) -> None:
    registry = registry_of(REPLACE, METHOD)
    empty = ContractSet("1.0", {})
    plan = toy.plan(registry, contracts=empty)
    assert [item.unchecked for item in plan] == [("toy.core:greet",), ("toy.core:Engine.stop",)]
    assert len(plan.warnings()) == 2 and "no contract for toy.core:greet" in plan.warnings()[0]
    strict = toy.plan(registry, Selection(strict=True), contracts=empty)
    assert len(strict.problems()) == 2 and not strict.warnings()


def test_contracts_list_overriding_subclasses_and_aliases(toy: Toy) -> None:
    toy.write("toy/again.py", "from toy.consumer import greet as hello\n")
    toy.write(
        "toy/derived.py",
        """
        from .consumer import Motor
        class Big(Motor):
            def stop(self): return "big"
        class Bigger(Big):
            pass
        class Unrelated:
            def stop(self): return "other"
    """,
    )
    toy.write("toy/deeper/__init__.py", "")
    toy.write(
        "toy/deeper/leaf.py",
        """
        from ..derived import Bigger as Base
        class Leaf(Base):
            stop = None
    """,
    )
    contracts = toy.contracts(registry_of(REPLACE, METHOD)).targets
    assert set(contracts["toy.core:greet"].aliased_in) == {"toy.consumer", "toy.again"}
    assert set(contracts["toy.core:Engine.stop"].overridden_by) == {
        "toy.core:Small", "toy.derived:Big", "toy.deeper.leaf:Leaf",
    }  # fmt: skip


def test_an_added_subclass_shows_in_the_contract(toy: Toy) -> None:
    registry = registry_of(METHOD)
    before = toy.contracts(registry).targets["toy.core:Engine.stop"]
    toy.write("toy/derived.py", "import toy.core\nclass Big(toy.core.Engine):\n    def stop(self): return 'big'\n")
    after = toy.contracts(registry).targets["toy.core:Engine.stop"]
    assert set(after.overridden_by) - set(before.overridden_by) == {"toy.derived:Big"}
    store = ContractStore.of([ContractSet("1.0", {"toy.core:Engine.stop": before})])
    (finding,) = check_usage(toy.tree, registry, store)
    assert finding.drifted and "toy.derived:Big overrides it since 1.0" in finding.text
    store = ContractStore.of([ContractSet("1.0", {"toy.core:Engine.stop": after})])
    assert check_usage(toy.tree, registry, store) == ()


def test_contracts_survive_a_file(toy: Toy, tmp_path: object) -> None:
    contracts = toy.contracts(registry_of(*EVERY))
    assert set(contracts.targets) == {rewrite.target for rewrite in EVERY}
    path = toy.folder / "1.0.json"
    contracts.save(path)
    assert ContractSet.load(path) == contracts
    first = path.read_bytes()
    ContractSet.load(path).save(path)
    assert path.read_bytes() == first
    assert ContractStore(toy.folder).get("1.0.dev3+local") == contracts


def test_a_known_version_reads_its_own_contract_file_only(toy: Toy) -> None:
    registry = registry_of(*EVERY)
    toy.contracts(registry).save(toy.folder / "1.0.json")
    for version in ("1.1", "0.9"):
        (toy.folder / f"{version}.json").write_text("unreadable")
    plan = make_plan(registry, toy.tree, ContractStore(toy.folder))
    assert plan.accepted and {item.against for decision in plan for item in decision.findings} == {"1.0"}
    toy.edit("toy/core.py", '"hello " + name', '"good day " + name')
    with pytest.raises(ContractError, match=r"1\.1\.json"):  # what changed may be as in another version
        make_plan(registry, toy.tree, ContractStore(toy.folder))


def test_a_contract_file_has_a_line_for_each_target_and_each_hash_once(toy: Toy) -> None:
    contracts = toy.contracts(registry_of(*EVERY))
    path = toy.folder / "1.0.json"
    contracts.save(path)
    text = path.read_text()
    assert set(json.loads(text)["targets"]) == set(contracts.targets)
    assert all(
        sum(line.startswith(f'  "{target}": {{') for line in text.splitlines()) == 1 for target in contracts.targets
    )
    assert all(text.count(contract.sha256) == 1 for contract in contracts.targets.values())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99, "version": "1", "targets": {}}'])
def test_a_bad_contract_file_is_one_clear_line(toy: Toy, text: str) -> None:
    (toy.folder / "1.0.json").write_text(text)
    with pytest.raises(ContractError, match=r"1\.0\.json cannot be read.*verify --all --update"):
        ContractSet.load(toy.folder / "1.0.json")


def test_contracts_that_cannot_be_read_are_left_out_when_they_are_written_anew(toy: Toy) -> None:
    contracts = toy.contracts(registry_of(REPLACE))
    contracts.save(toy.folder / "1.0.json")
    (toy.folder / "1.1.json").write_text('{"format": 1}')
    store = ContractStore(toy.folder)
    assert store.versions() == ("1.0", "1.1")
    assert store.readable().unreadable == ("1.1",)
    assert store.readable().versions() == ("1.0",) and store.readable().get("1.0") == contracts


def test_site_counts_follow_the_declaration_not_only_the_file(toy: Toy) -> None:
    registry = registry_of(RETARGET)
    known = toy.contracts(registry)
    assert known.targets["toy.core:where"].sites == {site_key(RETARGET): (2,)}
    edited = RETARGET.changed(strings={"cuda:": "npu:"})
    plan = toy.plan(registry_of(edited), contracts=known)
    assert "3 sites to retarget instead of 2" in plan.decisions["toy.p0"].reason


def test_moved_definitions_are_found(toy: Toy) -> None:
    move(toy)
    assert find_moved(toy.tree, Target.parse("toy.core:greet")) == ("toy.hello",)


def test_a_variant_whose_file_vanished_has_no_contract(toy: Toy) -> None:
    (toy.folder / "toy/core.py").unlink()
    assert build(toy.tree, registry_of(REPLACE)).targets == {}


def test_decision_and_contract_types_are_plain_data(toy: Toy) -> None:
    plan = toy.plan(registry_of(REPLACE))
    decision = plan.decisions["toy.p0"]
    assert isinstance(decision, Decision) and isinstance(
        toy.contracts(registry_of(REPLACE)).targets["toy.core:greet"], Contract
    )


def test_adding_over_an_inherited_attribute_is_no_drift(toy: Toy) -> None:
    registry = registry_of(Add("toy.core:Small.start", by="toyfunctions:start"))
    for contracts in (toy.contracts(registry), ContractSet("1.0", {})):
        assert toy.plan(registry, contracts=contracts).decisions["toy.p0"].accepted
    toy.edit("toy/core.py", "class Small(Engine):", "class Small(Engine):\n    def start(self): ...\n")
    assert "upstream now has it" in toy.plan(registry).decisions["toy.p0"].reason
