"""Plans kept between processes: the same answer as long as nothing changed, and none as soon as something did."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ascend_patch.engine import kept
from ascend_patch.engine.contracts import ContractStore
from ascend_patch.engine.overlay import Overlay, Package
from ascend_patch.engine.plan import Selection
from ascend_patch.engine.planning import make_plan
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.vocabulary import Patch, Register, Replace, Retarget, State, Variant, Wrap

from .conftest import Toy

LONG_AGO = 1_600_000_000


def declared(needs: tuple[str, ...] = ()) -> Registry:
    rewrites = (
        Replace("toy.core:greet", by="toyfunctions:greet"),
        Retarget("toy.core:where", names={"cuda": "npu"}, sites=2),
        Register("toy.core:REGISTRY", key="ours", value="toyfunctions:Thing"),
    )
    return Registry.from_patches(
        [
            Patch("toy.first", "because", (Variant(">=1,<2", rewrites, needs=needs),)),
            Patch("toy.gone", "because", (Variant(">=1,<2", (Wrap("toy.nowhere:f", by="toyfunctions:louder"),)),)),
            Patch("toy.old", "because", (Variant(">=0.1,<0.2", rewrites),), requires=("toy.first",)),
        ]
    )


@dataclass
class Shelf:
    """A folder of plans, and one that stands for our own sources."""

    toy: Toy
    folder: Path
    own: Path

    @property
    def question(self) -> kept.Question:
        return kept.Question("toy", str(self.toy.folder), "1.0", Selection(), ("", ""), (str(self.own),))

    def keep(self, registry: Registry) -> kept.Answer:
        tree = self.toy.tree
        plan = make_plan(registry, tree, ContractStore.of([self.toy.contracts(registry)]))
        answer = kept.Answer(registry, plan)
        kept.keep(self.folder, self.question, answer, tree)
        return answer

    def recall(self) -> kept.Answer | None:
        return kept.recall(self.folder, self.question)


@pytest.fixture
def shelf(toy: Toy, tmp_path: Path) -> Shelf:
    own = tmp_path / "own"
    (own / "contracts").mkdir(parents=True)
    (own / "patch.py").write_text("PATCH = 1\n")
    (own / "contracts" / "1.0.json").write_text("{}\n")
    for path in tmp_path.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return Shelf(toy, tmp_path / "plans", own)


def test_the_answer_is_the_same(shelf: Shelf) -> None:
    made = shelf.keep(declared())
    found = shelf.recall()
    assert found is not None
    assert found.registry.ids == made.registry.ids and list(found.registry) == list(made.registry)
    assert found.plan.fingerprint == made.plan.fingerprint
    assert [item.state for item in found.plan] == [State.PENDING, State.DRIFTED, State.SKIPPED]
    assert [(item.patch, item.variant, item.state, item.reason) for item in found.plan] == [
        (item.patch, item.variant, item.state, item.reason) for item in made.plan
    ]
    assert found.plan.warnings() == made.plan.warnings() and found.plan.problems() == made.plan.problems()


def test_an_overlay_applies_it(shelf: Shelf) -> None:
    shelf.keep(declared())
    found = shelf.recall()
    assert found is not None
    Overlay(Package("toy"), found.plan, found.registry, warn=False).install()
    core = shelf.toy.module("toy.core")
    assert (core.greet("you"), core.where()) == ("patched you!", "npu npu cuda:")


def changed_text(path: Path) -> None:
    """Other text of the same length, with the time stamp of before: the entry's own time tells."""
    before = path.stat()
    text = path.read_text()
    path.write_text(text[:-2] + ("x" if text[-2] != "x" else "y") + text[-1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Shelf], object]] = {
    "a target's file": lambda shelf: changed_text(shelf.toy.folder / "toy" / "core.py"),
    "a target's file is gone": lambda shelf: (shelf.toy.folder / "toy" / "core.py").unlink(),
    "a module that was missing": lambda shelf: (shelf.toy.folder / "toy" / "nowhere.py").write_text("f = 1\n"),
    "it comes as a package": lambda shelf: (
        (shelf.toy.folder / "toy" / "nowhere").mkdir(),
        (shelf.toy.folder / "toy" / "nowhere" / "__init__.py").write_text("f = 1\n"),
    ),
    "what a patch installs": lambda shelf: changed_text(shelf.toy.folder / "toyfunctions.py"),
    "a declaration": lambda shelf: changed_text(shelf.own / "patch.py"),
    "a new declaration": lambda shelf: (shelf.own / "another.py").write_text("PATCH = 2\n"),
    "a contract": lambda shelf: changed_text(shelf.own / "contracts" / "1.0.json"),
    "a contract is gone": lambda shelf: (shelf.own / "contracts" / "1.0.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_counts_until_something_changes(shelf: Shelf, change: str) -> None:
    shelf.keep(declared())
    assert shelf.recall() is not None
    CHANGES[change](shelf)
    assert shelf.recall() is None


def test_other_settings_are_another_question(shelf: Shelf) -> None:
    shelf.keep(declared())
    question = shelf.question
    others = [
        question.changed(selection=Selection(disable=frozenset({"toy.first"}))),
        question.changed(selection=Selection(strict=True)),
        question.changed(version="1.1"),
        question.changed(assumed=("1.1", "somebody")),
        question.changed(origin="elsewhere"),
        question.changed(own=("elsewhere",)),
    ]
    assert all(kept.recall(shelf.folder, other) is None for other in others)
    assert kept.recall(shelf.folder, question) is not None


def test_an_installed_version_counts(shelf: Shelf) -> None:
    metadata = shelf.toy.folder / "gadget-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").touch()
    shelf.keep(declared(needs=("gadget>=1,<2", "unheard-of>=1")))
    assert shelf.recall() is not None
    metadata.rename(shelf.toy.folder / "gadget-1.6.dist-info")
    assert shelf.recall() is None


def test_what_was_written_just_now_is_no_witness(shelf: Shelf) -> None:
    (shelf.own / "patch.py").write_text("PATCH = 3\n")
    shelf.keep(declared())
    assert not shelf.folder.exists() and shelf.recall() is None


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps(({}, {}))], ids=["empty", "broken", "cut off"])
def test_a_damaged_file_is_as_none(shelf: Shelf, content: bytes) -> None:
    shelf.keep(declared())
    (shelf.folder / shelf.question.file).write_bytes(content)
    assert shelf.recall() is None


def test_a_plan_that_others_may_write_is_not_believed(shelf: Shelf) -> None:
    shelf.keep(declared())
    path = shelf.folder / shelf.question.file
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o620)
    assert shelf.recall() is None


class Surprise:
    """Something whose unpickling would run a program."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_nothing_but_a_plan_is_unpickled(shelf: Shelf, tmp_path: Path) -> None:
    shelf.keep(declared())
    path = shelf.folder / shelf.question.file
    path.write_bytes(pickle.dumps(Surprise(tmp_path / "surprise")))
    assert shelf.recall() is None and not (tmp_path / "surprise").exists()


def test_the_folder_does_not_grow_for_ever(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_PLANS", 2)
    shelf.folder.mkdir()
    for age, name in enumerate(["newest.plan", "newer.plan", "oldest.plan"]):
        (shelf.folder / name).touch()
        os.utime(shelf.folder / name, (LONG_AGO - age, LONG_AGO - age))
    shelf.keep(declared())
    assert sorted(path.name for path in shelf.folder.iterdir()) == sorted([shelf.question.file, "newest.plan"])


def test_no_folder_costs_nothing_but_time(shelf: Shelf) -> None:
    shelf.folder.write_text("a file in the way")
    assert shelf.keep(declared()).plan.accepted
    assert shelf.recall() is None
