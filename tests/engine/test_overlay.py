"""Applying: when modules come in which order, what happens half-way, and who still holds the original."""

from __future__ import annotations

import importlib
import itertools
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ascend_patch.engine.errors import OverlayError, RequiredPatchError
from ascend_patch.engine.overlay import Overlay
from ascend_patch.engine.planning import Selection
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


def test_aliases_outside_the_package_are_named_and_left_alone(toy: Toy) -> None:
    toy.write("toypatches.py", "from toy.core import greet")
    outside = toy.module("toypatches")
    overlay = toy.overlay(GREET)
    overlay.install()
    assert outside.greet("x") == "hello x!"
    assert overlay.status()[0].stale_aliases == ("toypatches:greet",)
    overlay.undo()
    assert overlay.status()[0].stale_aliases == ()


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


# -- transactions ----------------------------------------------------------------------------------


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


# -- required patches ------------------------------------------------------------------------------

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


# -- undo ------------------------------------------------------------------------------------------


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


# -- import machinery ------------------------------------------------------------------------------


def test_modules_look_untouched(toy: Toy) -> None:
    toy.overlay(GREET).install()
    patched, plain = toy.module("toy.core"), toy.module("toy.other")
    assert type(patched.__spec__.loader) is type(plain.__spec__.loader)
    assert patched.__loader__ is patched.__spec__.loader and patched.__file__ == patched.__spec__.origin


def test_the_loader_is_upstreams_while_the_module_executes(toy: Toy) -> None:
    toy.edit("toy/core.py", "LIMIT = 8", "LIMIT = 8\nSEEN = (type(__loader__), type(__spec__.loader))")
    toy.overlay(GREET).install()
    loader = type(toy.module("toy.other").__loader__)
    assert (loader, loader) == toy.module("toy.core").SEEN


def test_a_target_that_fails_to_import_can_be_imported_again(toy: Toy) -> None:
    good = toy.files["toy/core.py"]
    overlay = toy.overlay(GREET)
    overlay.install()
    toy.write("toy/core.py", good + "\nraise OSError('not yet')\n")
    with pytest.raises(OSError, match="not yet"):
        toy.module("toy.core")
    toy.write("toy/core.py", good)
    assert toy.module("toy.core").greet("x") == "patched x!"
    assert states(overlay) == {"toy.greet": State.APPLIED}


def test_reload_patches_the_new_functions(toy: Toy) -> None:
    overlay = toy.overlay(ALL_KINDS)
    overlay.install()
    core = toy.module("toy.core")
    first = core.greet
    importlib.reload(core)
    assert core.greet is not first and core.greet("x") == "HELLO X!"
    overlay.undo()
    assert core.greet("x") == "hello x!" and core.where() == "cuda cuda cuda:"


def test_threads_importing_different_targets(toy: Toy) -> None:
    """Two target modules whose patches import each other's: no deadlock, both patched."""
    toy.write(
        "toypatches.py",
        """
        import time
        time.sleep(0.05)
        import toy.core, toy.other
        def mine(): return "mine"
    """,
    )
    patches = [
        patch_of("toy.one", Replace("toy.core:Engine.stop", by="toypatches:mine")),
        patch_of("toy.two", Replace("toy.other:fine", by="toypatches:mine")),
    ]
    overlay = toy.overlay(*patches)
    overlay.install()
    barrier = threading.Barrier(4)
    errors: list[Exception] = []

    def work(name: str) -> None:
        barrier.wait()
        try:
            importlib.import_module(name)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in ("toy.core", "toy.other") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads) and not errors
    assert states(overlay) == {"toy.one": State.APPLIED, "toy.two": State.APPLIED}
    assert toy.module("toy.other").fine() == "mine"


PROCESSES = """
    import multiprocessing, sys
    from ascend_patch.engine.contracts import ContractStore
    from ascend_patch.engine.overlay import Overlay, Package
    from ascend_patch.engine.planning import make_plan
    from ascend_patch.engine.registry import Registry
    from ascend_patch.engine.sources import SourceTree
    from ascend_patch.engine.vocabulary import Patch, Replace, Variant

    registry = Registry.from_patches([
        Patch("toy.greet", "because", (Variant(">=1,<2", (Replace("toy.core:greet", by="toyfunctions:greet"),)),))])
    tree = SourceTree.open(sys.path[1], package="toy", version="1.0")
    overlay = Overlay(Package("toy"), make_plan(registry, tree, ContractStore.of([])), registry)
    overlay.install()
    import toy.consumer

    def child(queue):
        queue.put((overlay.status()[0].state.value, toy.consumer.call("child")))

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        queue = context.Queue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(queue.get(timeout=60))
        process.join()
        print(context.Pool(1).apply(toy.consumer.greet, ("pool",)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_processes_are_patched_alike(toy: Toy, method: str) -> None:
    lines = toy.run(PROCESSES, method).splitlines()
    assert lines == ["('applied', 'patched child!')", "patched pool!"]
