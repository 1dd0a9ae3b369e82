"""Each kind of rewrite on each kind of slot: its effect, what stays as it was, and its undo."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from ascend_patch.engine.vocabulary import Add, Patch, Register, Replace, Retarget, Rewrite, State, Variant, Wrap

if TYPE_CHECKING:
    from conftest import Toy


def patch_of(*rewrites: Rewrite, id: str = "toy.patch", **more: Any) -> Patch:
    return Patch(id, "because", (Variant(">=1,<2", rewrites),), **more)


@dataclass(frozen=True)
class Case:
    """A rewrite and an observation of the module that must differ with it, and only with it."""

    rewrite: Rewrite
    observe: Callable[[ModuleType], object]
    before: object
    after: object

    def __str__(self) -> str:
        return f"{self.rewrite.kind} {self.rewrite.place.qualname}"


ABSENT = "absent"
CUDA = {"cuda": "npu"}
CASES = [
    Case(Replace("toy.core:greet", by=":greet"), lambda m: m.greet("x"), "hello x!", "patched x!"),
    Case(Replace("toy.core:Engine.start", by=":start"), lambda m: m.Engine().start(), "start cuda", "patched npu"),
    Case(
        Replace("toy.core:Engine.double", by=":double"),
        lambda m: (m.Engine.double(1), m.Engine().double(1)),
        (2, 2),
        (20, 20),
    ),
    Case(Replace("toy.core:Engine.make", by=":make"), lambda m: m.Small.make(), "Smallengine", "patched Smallpatched"),
    Case(Replace("toy.core:Engine.label", by=":label"), lambda m: m.Engine().label, "cuda", "patched label"),
    Case(Replace("toy.core:Engine.costly", by=":label"), lambda m: m.Engine().costly, "costly", "patched label"),
    Case(
        Replace("toy.core:Small.start", by=":start"),
        lambda m: (m.Small().start(), m.Engine().start()),
        ("start cuda", "start cuda"),
        ("patched npu", "start cuda"),
    ),
    Case(Replace("toy.core:LIMIT", by=":LIMIT"), lambda m: m.LIMIT, 8, 16),
    Case(Wrap("toy.core:greet", by=":louder"), lambda m: m.greet("x"), "hello x!", "HELLO X!"),
    Case(
        Wrap("toy.core:Engine.start", by=":variadic"),
        lambda m: m.Engine().start(where="there"),
        "start there",
        "start there (wrapped)",
    ),
    Case(
        Wrap("toy.core:Engine.make", by=":variadic"), lambda m: m.Small.make(), "Smallengine", "Smallengine (wrapped)"
    ),
    Case(Wrap("toy.core:Engine.label", by=":variadic"), lambda m: m.Engine().label, "cuda", "cuda (wrapped)"),
    Case(Wrap("toy.core:Small.stop", by=":variadic"), lambda m: m.Small().stop(), "small stop", "small stop (wrapped)"),
    Case(
        Retarget("toy.core:where", names=CUDA, strings={"cuda:": "npu:"}, sites=3),
        lambda m: m.where(),
        "cuda cuda cuda:",
        "npu npu npu:",
    ),
    Case(
        Retarget("toy.core:cached", strings=CUDA),
        lambda m: (m.cached.cache_clear(), m.cached(1))[1],
        ("cuda", 1),
        ("npu", 1),
    ),
    Case(Retarget("toy.core:Engine.label", strings=CUDA), lambda m: m.Engine().label, "cuda", "npu"),
    Case(
        Retarget("toy.core:Engine.stop", strings={"stop": "halt"}),
        lambda m: m.Small().stop(),
        "small stop",
        "small halt",
    ),
    Case(
        Register("toy.core:REGISTRY", key="ours", value=":Thing"),
        lambda m: getattr(m.REGISTRY.get("ours"), "__name__", ABSENT),
        ABSENT,
        "Thing",
    ),
    Case(
        Register("toy.core:REGISTRY", key="known", value="a:b", literal=True),
        lambda m: m.REGISTRY["known"],
        "upstream",
        "a:b",
    ),
    Case(Add("toy.core:extra", by=":extra"), lambda m: m.extra() if hasattr(m, "extra") else ABSENT, ABSENT, "extra"),
    Case(Add("toy.core:Small.start", by=":start"), lambda m: m.Small().start(), "start cuda", "patched npu"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_effect_and_undo(toy: Toy, case: Case) -> None:
    module = toy.module("toy.core")
    holders = [module, module.Engine, module.Small]
    pristine = [dict(vars(holder)) for holder in holders]
    assert case.observe(module) == case.before != case.after
    overlay = toy.overlay(patch_of(case.rewrite))
    overlay.install()
    assert [status.state for status in overlay.status()] == [State.APPLIED], overlay.status()
    assert case.observe(module) == case.after
    report = overlay.undo()
    assert report.undone == ("toy.patch",) and report.kept == ()
    assert case.observe(module) == case.before
    assert [dict(vars(holder)) for holder in holders] == pristine


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_second_overlay_changes_nothing_more(toy: Toy, case: Case) -> None:
    module = toy.module("toy.core")
    patch = patch_of(case.rewrite)
    contracts = toy.overlay(patch).registry
    known = toy.contracts(contracts)
    first = toy.overlay(patch, contracts=known)
    first.install()
    snapshot = [dict(vars(holder)) for holder in (module, module.Engine, module.Small)]
    second = toy.overlay(patch, contracts=known)
    second.install()
    second.install()
    assert second.status()[0].state is State.APPLIED
    assert [dict(vars(holder)) for holder in (module, module.Engine, module.Small)] == snapshot
    assert case.observe(module) == case.after
    second.undo()
    assert case.observe(module) == case.after, "what the first overlay made is not the second's to undo"
    first.undo()
    assert case.observe(module) == case.before


def test_every_kind_is_covered() -> None:
    assert {type(case.rewrite).__name__ for case in CASES} == {kind.__name__ for kind in Rewrite.__subclasses__()}


def test_descriptors_keep_their_kind(toy: Toy) -> None:
    overlay = toy.overlay(*[patch_of(case.rewrite, id=f"toy.p{n}") for n, case in enumerate(CASES[2:6])])
    module = toy.module("toy.core")
    kinds = {name: type(vars(module.Engine)[name]) for name in ("double", "make", "label", "costly")}
    overlay.install()
    assert {name: type(vars(module.Engine)[name]) for name in kinds} == kinds


def test_functions_in_slots_pickle(toy: Toy) -> None:
    module = toy.module("toy.core")
    toy.overlay(
        patch_of(Wrap("toy.core:greet", by=":louder"), id="toy.a"),
        patch_of(Replace("toy.core:Engine.start", by=":start"), id="toy.b"),
        patch_of(Retarget("toy.core:where", names=CUDA, sites=2), id="toy.c"),
    ).install()
    for function in (module.greet, module.Engine.start, module.where):
        assert pickle.loads(pickle.dumps(function)) is function


def test_a_wrapper_looks_like_the_original(toy: Toy) -> None:
    module = toy.module("toy.core")
    original = module.greet
    original.marker = "steers a compiler to the original"
    signature = inspect.signature(original)
    toy.overlay(patch_of(Wrap("toy.core:greet", by=":variadic"))).install()
    wrapper = module.greet
    assert wrapper is not original
    assert (wrapper.__module__, wrapper.__qualname__, wrapper.__doc__) == ("toy.core", "greet", "Say hello.")
    assert inspect.signature(wrapper) == signature
    assert not hasattr(wrapper, "marker") and not hasattr(wrapper, "__wrapped__")


def test_a_wrapper_without_defaults_gets_the_originals(toy: Toy) -> None:
    toy.write(
        "toyfunctions.py",
        """
        def plain(original):
            def greet(name, punctuation):
                return original(name, punctuation) * 2
            return greet
    """,
    )
    module = toy.module("toy.core")
    toy.overlay(patch_of(Wrap("toy.core:greet", by=":plain"))).install()
    assert module.greet("x") == "hello x!hello x!"


REFUSED = {
    "sites": (Retarget("toy.core:where", names=CUDA, strings={"cuda:": "npu:"}, sites=7), "3 sites"),
    "class": (Retarget("toy.core:Engine", names=CUDA), "not a function"),
    "no mapping": (Register("toy.core:LIMIT", key="a", value=":Thing"), "not a mapping"),
    "broken factory": (Wrap("toy.core:greet", by=":broken"), "this factory is broken"),
    "exists": (Add("toy.core:greet", by=":greet"), "already|now has it|exists"),
    "dangling": (Replace("toy.core:greet", by="toyfunctions:nowhere"), "nowhere"),
    "inherited": (Retarget("toy.core:Small.start", strings=CUDA), "Engine"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_without_a_trace(toy: Toy, name: str) -> None:
    rewrite, reason = REFUSED[name]
    module = toy.module("toy.core")
    pristine, code = dict(vars(module)), module.where.__code__
    overlay = toy.overlay(patch_of(rewrite))
    overlay.install()
    (status,) = overlay.status()
    assert status.state in (State.FAILED, State.DRIFTED)
    assert re.search(reason, status.reason), status.reason
    assert dict(vars(module)) == pristine and module.where.__code__ is code


def test_undo_leaves_what_somebody_else_put_on_top(toy: Toy) -> None:
    module = toy.module("toy.core")
    overlay = toy.overlay(patch_of(Replace("toy.core:greet", by=":greet"), Replace("toy.core:LIMIT", by=":LIMIT")))
    overlay.install()
    module.greet = len
    report = overlay.undo()
    assert module.greet is len and module.LIMIT == 8
    assert len(report.kept) == 1 and "toy.core:greet" in report.kept[0] and "len" in report.kept[0]


def test_stacked_patches_undo_from_the_top(toy: Toy) -> None:
    module = toy.module("toy.core")
    overlay = toy.overlay(
        patch_of(Replace("toy.core:greet", by=":greet"), id="toy.a"),
        patch_of(Wrap("toy.core:greet", by=":louder"), id="toy.b"),
    )
    overlay.install()
    assert module.greet("x") == "PATCHED X!"
    report = overlay.undo("toy.a")
    assert report.undone == ("toy.b", "toy.a") and module.greet("x") == "hello x!"


def test_never_after_keeps_a_name_in_its_place(toy: Toy) -> None:
    toy.write(
        "toy/devices.py",
        """
        class npu:
            name = "npu"
        class cuda:
            name = "cuda"
        class backends:
            class cuda:
                name = "backends"
    """,
    )
    toy.write(
        "toy/other.py",
        """
        from toy import devices
        def only_kept():
            return devices.backends.cuda.name
        def nested():
            def inner():
                return devices.cuda.name
            return inner() + devices.backends.cuda.name
        def mixed():
            return devices.cuda.name + devices.backends.cuda.name
    """,
    )
    module = toy.module("toy.other")
    keep = {"names": CUDA, "never_after": ("backends",)}
    overlay = toy.overlay(
        patch_of(Retarget("toy.other:nested", **keep), id="toy.a"),
        patch_of(Retarget("toy.other:only_kept", sites=0, **keep), id="toy.b"),
        patch_of(Retarget("toy.other:mixed", **keep), id="toy.c"),
    )
    overlay.install()
    assert module.nested() == "npubackends" and module.only_kept() == "backends"
    mixed = overlay.status()[2]
    assert mixed.state in (State.DRIFTED, State.FAILED) and "replace or wrap" in mixed.reason


@pytest.mark.parametrize("traced", [True, False])
def test_traced_code_gets_plain_functions_only(toy: Toy, traced: bool) -> None:
    toy.write(
        "toyfunctions.py",
        """
        import functools
        class Callable:
            def __call__(self, name): return "callable"
        instance = Callable()
        def greet(name): return name
        partial = functools.partial(greet, "x")
        try:
            import wrapt
            @wrapt.decorator
            def passing(wrapped, instance, args, kwargs): return wrapped(*args, **kwargs)
            proxy = passing(greet)
            def closing(original):
                inner = passing(original)
                def greet(name, punctuation="!"): return inner(name, punctuation)
                return greet
        except ImportError:
            proxy = instance
    """,
    )
    pytest.importorskip("wrapt")
    for rewrite in (
        Replace("toy.core:greet", by=":instance"),
        Replace("toy.core:greet", by=":partial"),
        Replace("toy.core:greet", by=":proxy"),
        Wrap("toy.core:greet", by=":closing"),
        Add("toy.core:Engine.forward", by=":instance"),
    ):
        overlay = toy.overlay(patch_of(rewrite, traced=traced))
        overlay.install()
        toy.module("toy.core")
        (status,) = overlay.status()
        assert (status.state is State.FAILED) == traced, (rewrite, status)
        assert not traced or "torch.compile" in status.reason or "plain function" in status.reason
        overlay.undo()
