"""Applying: when modules come in which order, what happens half-way, and who still holds the original."""

from __future__ import annotations

import importlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from ascend_patch.engine.overlay import Overlay
from ascend_patch.engine.vocabulary import Add, Patch, Register, Replace, Retarget, Rewrite, State, Variant, Wrap

if TYPE_CHECKING:
    from conftest import Toy


def patch_of(id: str, *rewrites: Rewrite, **more: Any) -> Patch:
    return Patch(id, "because", (Variant(">=1,<2", rewrites),), **more)


GREET = patch_of("toy.greet", Replace("toy.core:greet", by=":greet"))
BOTH = patch_of("toy.both", Replace("toy.core:LIMIT", by=":LIMIT"), Replace("toy.other:fine", by=":extra"))
ALL_KINDS = patch_of(
    "toy.all",
    Wrap("toy.core:greet", by=":louder"),
    Replace("toy.core:Engine.start", by=":start"),
    Retarget("toy.core:where", names={"cuda": "npu"}, sites=2),
    Register("toy.core:REGISTRY", key="ours", value=":Thing"),
    Add("toy.core:extra", by=":extra"),
)


def states(overlay: Overlay) -> dict[str, State]:
    return {status.id: status.state for status in overlay.status()}


def observed(toy: Toy) -> tuple[object, ...]:
    core, consumer = toy.module("toy.core"), toy.module("toy.consumer")
    return (
        core.greet("x"), consumer.call("x"), core.Engine().start(), core.Small().start(), consumer.Motor().start(),
        core.where(), "ours" in core.REGISTRY, hasattr(core, "extra"),
    )  # fmt: skip


ORIGINAL = ("hello x!", "hello x!", "start cuda", "start cuda", "start cuda", "cuda cuda cuda:", False, False)
PATCHED = ("HELLO X!", "HELLO X!", "patched npu", "patched npu", "patched npu", "npu npu cuda:", True, True)

EVENTS = ("install", "import toy.core", "import toy.consumer", "import toy.gate", "reload toy.core")


def possible(order: tuple[str, ...]) -> bool:
    """Not a reload between an import from the module and the overlay: that importer keeps functions nobody can find."""
    early = order[: order.index("install")] if "install" in order else order
    return "install" in order and "reload toy.core" not in early


ORDERINGS = [
    order for length in range(1, len(EVENTS)) for order in itertools.permutations(EVENTS, length) if possible(order)
]


@pytest.mark.parametrize("order", ORDERINGS, ids=" > ".join)
def test_every_ordering_of_imports(toy: Toy, order: tuple[str, ...]) -> None:
    """Whatever came before the overlay and after it, all names end up patched, and original again after the undo."""
    overlay = toy.overlay(ALL_KINDS)
    for event in order:
        verb, _, name = event.partition(" ")
        if verb == "install":
            overlay.install()
        elif verb == "import":
            importlib.import_module(name)
        else:
            importlib.reload(importlib.import_module(name))
    # A reload makes a new function; whoever imported the old name keeps the old one, as in plain Python.
    assert observed(toy) == PATCHED
    assert states(overlay) == {"toy.all": State.APPLIED}
    overlay.undo()
    assert observed(toy) == ORIGINAL
    assert states(overlay) == {"toy.all": State.DISABLED}


def test_pending_until_all_target_modules_have_executed(toy: Toy) -> None:
    overlay = toy.overlay(BOTH)
    overlay.install()
    assert states(overlay) == {"toy.both": State.PENDING}
    assert toy.module("toy.core").LIMIT == 16
    (status,) = overlay.status()
    assert (status.state, status.applied, status.pending) == (State.PENDING, ("toy.core",), ("toy.other",))
    assert toy.module("toy.other").fine() == "extra"
    (status,) = overlay.status()
    assert (status.state, status.pending) == (State.APPLIED, ())


def test_the_patch_is_in_place_before_the_importer_goes_on(toy: Toy) -> None:
    toy.overlay(GREET).install()
    consumer = toy.module("toy.consumer")
    assert consumer.call("x") == "patched x!"
    assert not toy.overlay(GREET).status()[0].early_importers


def test_early_importers_are_rewritten_and_named(toy: Toy) -> None:
    core, consumer = toy.module("toy.core"), toy.module("toy.consumer")
    original = core.greet
    overlay = toy.overlay(GREET)
    overlay.install()
    (status,) = overlay.status()
    assert status.late == ("toy.core",) and status.early_importers == ("toy.consumer:greet",)
    assert consumer.call("x") == "patched x!"
    overlay.undo()
    assert core.greet is original and consumer.greet is original


def test_a_name_bound_while_the_target_executes_follows(toy: Toy) -> None:
    toy.edit("toy/core.py", 'REGISTRY = {"known"', 'import toy.consumer\nREGISTRY = {"known"')
    overlay = toy.overlay(GREET)
    overlay.install()
    toy.module("toy.core")
    assert toy.module("toy.consumer").call("x") == "patched x!"
    assert overlay.status()[0].early_importers == ("toy.consumer:greet",)


def test_a_second_name_in_the_module_itself_follows(toy: Toy) -> None:
    toy.edit("toy/core.py", 'REGISTRY = {"known"', 'salute = greet\nREGISTRY = {"known"')
    overlay = toy.overlay(GREET)
    overlay.install()
    core = toy.module("toy.core")
    assert core.salute("x") == "patched x!"
    assert overlay.status()[0].stale_aliases == ()
    overlay.undo()
    assert core.salute("x") == core.greet("x") == "hello x!"


def test_aliases_outside_the_package_are_named_and_left_alone(toy: Toy) -> None:
    toy.write("toypatches.py", "from toy.core import greet")
    outside = toy.module("toypatches")
    overlay = toy.overlay(GREET)
    overlay.install()
    assert outside.greet("x") == "hello x!"
    assert overlay.status()[0].stale_aliases == ("toypatches:greet",)
    overlay.undo()
    assert overlay.status()[0].stale_aliases == ()


def test_our_own_function_below_another_patch_is_no_alias(toy: Toy) -> None:
    overlay = toy.overlay(GREET, patch_of("toy.loud", Wrap("toy.core:greet", by=":louder")))
    overlay.install()
    assert toy.module("toy.core").greet("x") == "PATCHED X!"
    assert [status.stale_aliases for status in overlay.status()] == [(), ()]


def test_the_gate_sweeps_once_more(toy: Toy) -> None:
    overlay = toy.overlay(GREET)
    core, consumer = toy.module("toy.core"), toy.module("toy.consumer")
    original = core.greet
    overlay.install()
    consumer.greet = original  # bound late, from a list or a closure
    toy.module("toy.gate")
    assert consumer.call("x") == "patched x!"


def test_patching_an_imported_name_concerns_its_module_alone(toy: Toy) -> None:
    toy.write("toy/second.py", "from toy.core import greet")
    second, consumer = toy.module("toy.second"), toy.module("toy.consumer")
    overlay = toy.overlay(patch_of("toy.alias", Replace("toy.consumer:greet", by=":greet")))
    overlay.install()
    assert consumer.call("x") == "patched x!" and second.greet("x") == "hello x!"


def test_aliases_get_the_topmost_layer(toy: Toy) -> None:
    consumer = toy.module("toy.consumer")
    overlay = toy.overlay(GREET, patch_of("toy.loud", Wrap("toy.core:greet", by=":louder")))
    overlay.install()
    assert consumer.call("x") == "PATCHED X!"
    overlay.undo()
    assert consumer.call("x") == "hello x!"


def test_no_attribute_of_a_module_is_asked_for(toy: Toy) -> None:
    toy.write("toy/lazy.py", "def __getattr__(name):\n    raise RuntimeError(name)\n")
    toy.module("toy.lazy")
    overlay = toy.overlay(ALL_KINDS)
    overlay.install()
    toy.module("toy.gate")
    assert states(overlay) == {"toy.all": State.APPLIED}
