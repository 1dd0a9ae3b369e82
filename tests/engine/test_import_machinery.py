"""The import system must not notice us: loaders, failing and reloaded modules, threads, child processes."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ascend_patch.engine.overlay import Overlay
from ascend_patch.engine.vocabulary import Add, Patch, Register, Replace, Retarget, Rewrite, State, Variant, Wrap

if TYPE_CHECKING:
    from conftest import Toy


def patch_of(id: str, *rewrites: Rewrite, **more: Any) -> Patch:
    return Patch(id, "because", (Variant(">=1,<2", rewrites),), **more)


GREET = patch_of("toy.greet", Replace("toy.core:greet", by=":greet"))
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


def test_modules_look_untouched(toy: Toy) -> None:
    toy.overlay(GREET).install()
    patched, plain = toy.module("toy.core"), toy.module("toy.other")
    assert type(patched.__spec__.loader) is type(plain.__spec__.loader)
    assert patched.__loader__ is patched.__spec__.loader and patched.__file__ == patched.__spec__.origin


def test_finders_in_front_of_ours_are_asked_once(toy: Toy) -> None:
    toy.overlay(GREET).install()
    asked: list[str] = []

    class Front:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            asked.append(name)

    sys.meta_path.insert(0, Front)  # type: ignore[arg-type]  # taken out again by the fixture
    assert toy.module("toy.core").greet("x") == "patched x!"
    assert asked.count("toy.core") == 1


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
