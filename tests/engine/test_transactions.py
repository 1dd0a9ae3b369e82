"""All or nothing: failures half-way, features, what a missing required patch stops, and undo."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ascend_patch.engine.errors import OverlayError, RequiredPatchError
from ascend_patch.engine.overlay import Overlay
from ascend_patch.engine.plan import Selection
from ascend_patch.engine.vocabulary import Patch, Replace, Rewrite, State, Variant, Wrap

if TYPE_CHECKING:
    from conftest import Toy


def patch_of(id: str, *rewrites: Rewrite, **more: Any) -> Patch:
    return Patch(id, "because", (Variant(">=1,<2", rewrites),), **more)


GREET = patch_of("toy.greet", Replace("toy.core:greet", by=":greet"))


def states(overlay: Overlay) -> dict[str, State]:
    return {status.id: status.state for status in overlay.status()}


def test_a_failure_half_way_undoes_the_whole_patch(toy: Toy) -> None:
    patch = patch_of("toy.half", Replace("toy.core:greet", by=":greet"), Wrap("toy.other:fine", by=":broken"))
    overlay = toy.overlay(patch)
    overlay.install()
    assert toy.module("toy.consumer").call("x") == "patched x!"
    toy.module("toy.other")
    (status,) = overlay.status()
    assert status.state is State.FAILED and "this factory is broken" in status.reason
    assert "ValueError" in status.traceback and status.applied == ()
    assert toy.module("toy.consumer").call("x") == "hello x!"


def test_a_failure_takes_the_feature_back_and_nothing_else(toy: Toy) -> None:
    base = patch_of("toy.base", Replace("toy.core:greet", by=":greet"))
    middle = patch_of("toy.middle", Wrap("toy.other:fine", by=":broken"), requires=("toy.base",))
    top = patch_of("toy.top", Replace("toy.core:LIMIT", by=":LIMIT"), requires=("toy.middle",))
    bystander = patch_of("toy.bystander", Replace("toy.core:Engine.start", by=":start"))
    overlay = toy.overlay(base, middle, top, bystander)
    overlay.install()
    core = toy.module("toy.core")
    assert (core.greet("x"), core.LIMIT) == ("patched x!", 16)
    toy.module("toy.other")
    assert states(overlay) == {
        "toy.base": State.ROLLED_BACK,
        "toy.middle": State.FAILED,
        "toy.top": State.ROLLED_BACK,
        "toy.bystander": State.APPLIED,
    }
    assert (core.greet("x"), core.LIMIT, core.Engine().start()) == ("hello x!", 8, "patched npu")
    assert "toy.middle" in overlay.status()[0].reason


@pytest.mark.parametrize("reason", ["required", "shared"])
def test_what_others_need_stays(toy: Toy, reason: str) -> None:
    base = patch_of("toy.base", Replace("toy.core:greet", by=":greet"), required=reason == "required")
    fails = patch_of("toy.fails", Wrap("toy.other:fine", by=":broken"), requires=("toy.base",))
    user = patch_of("toy.user", Replace("toy.core:LIMIT", by=":LIMIT"), requires=("toy.base",))
    overlay = toy.overlay(base, fails, *([user] if reason == "shared" else []))
    overlay.install()
    toy.module("toy.other")
    assert toy.module("toy.core").greet("x") == "patched x!"
    assert states(overlay)["toy.base"] is State.APPLIED and states(overlay)["toy.fails"] is State.FAILED


def test_a_patch_stacked_on_a_failed_one_falls_with_it(toy: Toy) -> None:
    below = patch_of("toy.below", Replace("toy.core:greet", by=":greet"), Wrap("toy.other:fine", by=":broken"))
    above = patch_of("toy.over", Wrap("toy.core:greet", by=":louder"))
    overlay = toy.overlay(below, above)
    overlay.install()
    core = toy.module("toy.core")
    assert core.greet("x") == "PATCHED X!"
    toy.module("toy.other")
    assert core.greet("x") == "hello x!"
    assert states(overlay) == {"toy.below": State.FAILED, "toy.over": State.ROLLED_BACK}


def test_a_failed_patch_leaves_later_modules_alone(toy: Toy) -> None:
    patch = patch_of("toy.half", Wrap("toy.other:fine", by=":broken"), Replace("toy.core:greet", by=":greet"))
    overlay = toy.overlay(patch)
    overlay.install()
    toy.module("toy.other")
    assert toy.module("toy.core").greet("x") == "hello x!"
    assert overlay.status()[0].pending == ()


BROKEN = patch_of("toy.needed", Wrap("toy.other:fine", by=":broken"), required=True)


def test_a_process_that_starts_nothing_is_never_stopped(toy: Toy) -> None:
    overlay = toy.overlay(BROKEN)
    overlay.install()
    toy.module("toy.other")
    toy.module("toy.consumer")
    with pytest.raises(RequiredPatchError, match=r"toy\.needed.*toy 1\.0.*broken.*ascend-patch diff toy\.needed"):
        toy.module("toy.gate")
    assert "toy.gate" not in sys.modules


def test_a_failure_after_the_gate_is_raised_where_it_happens(toy: Toy) -> None:
    overlay = toy.overlay(BROKEN)
    overlay.install()
    toy.module("toy.gate")
    with pytest.raises(RequiredPatchError, match=r"toy\.needed"):
        toy.module("toy.other")


def test_a_gate_that_was_passed_before_us_is_noticed_at_once(toy: Toy) -> None:
    toy.module("toy.gate")
    toy.module("toy.other")
    with pytest.raises(RequiredPatchError, match=r"toy\.needed"):
        toy.overlay(BROKEN).install()


def test_looking_for_the_gate_is_not_importing_it(toy: Toy) -> None:
    toy.overlay(patch_of("toy.gone", Replace("toy.core:gone", by=":greet"), required=True)).install()
    spec = importlib.util.find_spec("toy.gate")
    assert spec is not None and spec.loader is not None and "started" in spec.loader.get_source("toy.gate")
    with pytest.raises(RequiredPatchError):
        toy.module("toy.gate")


def test_a_disabled_required_patch_has_its_own_wording(toy: Toy) -> None:
    patch = patch_of("toy.needed", Replace("toy.core:greet", by=":greet"), required=True)
    overlay = toy.overlay(patch, selection=Selection(disable=frozenset({"toy.needed"})))
    overlay.install()
    with pytest.raises(RequiredPatchError, match=r"toy\.needed is disabled.*ascend-patch enable toy\.needed"):
        toy.module("toy.gate")


def test_optional_patches_that_are_out_give_one_warning(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    gone = [patch_of(f"toy.gone{n}", Replace(f"toy.core:gone{n}", by=":greet")) for n in range(3)]
    toy.overlay(*gone).install()
    toy.module("toy.gate")
    (record,) = [record for record in caplog.records if record.name == "ascend_patch"]
    assert record.levelname == "WARNING" and all(patch.id in record.getMessage() for patch in gone)


def test_strict_makes_optional_drift_an_error(toy: Toy) -> None:
    gone = patch_of("toy.gone", Replace("toy.core:gone", by=":greet"))
    toy.overlay(gone, GREET, selection=Selection(strict=True)).install()
    with pytest.raises(RequiredPatchError, match=r"toy\.gone drifted"):
        toy.module("toy.gate")


def test_undo_of_one_patch_takes_those_that_require_it(toy: Toy) -> None:
    overlay = toy.overlay(
        patch_of("toy.base", Replace("toy.core:greet", by=":greet")),
        patch_of("toy.top", Replace("toy.core:LIMIT", by=":LIMIT"), requires=("toy.base",)),
        patch_of("toy.else", Replace("toy.core:Engine.start", by=":start")),
    )
    overlay.install()
    core = toy.module("toy.core")
    assert overlay.undo("toy.base").undone == ("toy.top", "toy.base")
    assert (core.greet("x"), core.LIMIT, core.Engine().start()) == ("hello x!", 8, "patched npu")


def test_undo_before_the_import_forgets_the_patch(toy: Toy) -> None:
    overlay = toy.overlay(GREET)
    overlay.install()
    overlay.undo("toy.greet")
    assert toy.module("toy.core").greet("x") == "hello x!"


def test_undo_of_everything_takes_the_finder_out(toy: Toy) -> None:
    before = list(sys.meta_path)
    overlay = toy.overlay(GREET)
    overlay.install()
    assert sys.meta_path != before
    overlay.undo()
    assert sys.meta_path == before


def test_undo_of_an_unknown_patch_is_refused(toy: Toy) -> None:
    with pytest.raises(OverlayError, match=r"no patch toy\.nothing"):
        toy.overlay(GREET).undo("toy.nothing")
