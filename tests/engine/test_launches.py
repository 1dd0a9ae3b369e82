"""Upstream launches a kernel that is replaced in another way, or changes one that a replaced function launched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ascend_patch.engine.contract_building import check_usage
from ascend_patch.engine.contracts import ContractSet, ContractStore
from ascend_patch.engine.launches import parse_use
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.vocabulary import Patch, Replace, State, Variant

if TYPE_CHECKING:
    from conftest import Toy

KERNELS = """
    import toy.compiler
    from toy.compiler import launcher

    @toy.compiler.jit
    def helper(x):
        return x + 1

    @toy.compiler.jit
    def scale_kernel(out, x, factor, BLOCK, FAST=False):
        out = helper(x) * factor

    @toy.compiler.jit(do_not_specialize=["n"])
    def count_kernel(out, n):
        out = n

    def scale(x):
        grid = (len(x), 2)
        scale_kernel[grid](x, x, 3, BLOCK=8, num_warps=4)

    def count(n):
        count_kernel[(n,)](None, n)

    @launcher(kernel=count_kernel)
    def launch_count(n):
        return (n,)

    def indirectly(n):
        launch_count(n)

    class Summing(toy.compiler.Base):
        @staticmethod
        @toy.compiler.jit
        def kernel(x):
            return x

    SUMMING = Summing(8)

    class Table:
        def fill(self, n):
            SUMMING(n)
"""
USER = """
    from toy.kernels import scale_kernel as kernel

    def run(x, *more, **options):
        kernel[lambda meta: (1, meta["BLOCK"])](x, x, 1, BLOCK=8)

    class Runner:
        def step(self, x):
            import toy.kernels
            toy.kernels.scale_kernel[self.grid](x, *x, BLOCK=8)
"""
FAR = """
    from toy.kernels import count_kernel

    def far(n):
        count_kernel[(n,)](None, n)
"""
SCALE = Replace("toy.kernels:scale_kernel", by="toyfunctions:extra")
COUNT = Replace("toy.kernels:count", by="toyfunctions:extra")
INDIRECT = Replace("toy.kernels:indirectly", by="toyfunctions:extra")
FILL = Replace("toy.kernels:Table.fill", by="toyfunctions:extra")
ELSEWHERE = Replace("toy.far:far", by="toyfunctions:extra")
EVERY = (SCALE, COUNT, INDIRECT, FILL, ELSEWHERE)


@pytest.fixture
def kernels(toy: Toy) -> Iterator[Toy]:
    toy.write("toy/compiler.py", "def jit(function): return function\n")
    toy.write("toy/kernels.py", KERNELS)
    toy.write("toy/user.py", USER)
    toy.write("toy/far.py", FAR)
    yield toy
    assert "toy" not in sys.modules, "the verdict must not import the package"


def registry_of(*rewrites: Replace) -> Registry:
    return Registry.from_patches(
        Patch(f"toy.p{n}", "because", (Variant(">=1,<2", (rewrite,)),)) for n, rewrite in enumerate(rewrites)
    )


def test_a_contract_lists_what_is_done_with_a_kernel(kernels: Toy) -> None:
    targets = kernels.contracts(registry_of(*EVERY)).targets
    assert targets[SCALE.target].uses == {
        "toy.kernels:scale": ("[2](3, BLOCK, num_warps)",),
        "toy.user:run": ("[2](3, BLOCK)",),
        "toy.user:Runner.step": ("[?](1, *, BLOCK)",),
    }
    assert set(targets[SCALE.target].kernels) == {"helper"}
    assert set(targets[SCALE.target].also) == {"toy/user.py"}
    kernels_of = {rewrite: set(targets[rewrite.target].kernels) for rewrite in EVERY[1:]}
    assert kernels_of == {
        COUNT: {"count_kernel"},
        INDIRECT: {"count_kernel"},
        FILL: {"Summing.kernel"},
        ELSEWHERE: {"count_kernel"},
    }
    assert set(targets[ELSEWHERE.target].also) == {"toy/kernels.py"}
    assert not any(targets[rewrite.target].uses for rewrite in EVERY[1:]), "functions: the signature says it all"


@dataclass(frozen=True)
class Change:
    """An upstream change, and for the rewrites that must notice it what they say."""

    name: str
    make: Callable[[Toy], None]
    noticed: dict[Replace, str]

    def __str__(self) -> str:
        return self.name


def edit(file: str, old: str, new: str) -> Callable[[Toy], None]:
    return lambda toy: toy.edit(f"toy/{file}.py", old, new)


def to_another_function(toy: Toy) -> None:
    launch = '        kernel[lambda meta: (1, meta["BLOCK"])](x, x, 1, BLOCK=8)\n'
    assert launch[4:] in toy.files["toy/user.py"]
    toy.write("toy/user.py", toy.files["toy/user.py"].replace(launch[4:], "    return helped(x)\n"))
    toy.write("toy/user.py", f"{toy.files['toy/user.py']}\ndef helped(x):\n{launch[4:]}")


LAUNCH = 'kernel[lambda meta: (1, meta["BLOCK"])](x, x, 1, BLOCK=8)'
CHANGES = [
    Change(
        "one argument more",
        edit("user", "(x, x, 1, BLOCK=8)", "(x, x, 1, None, BLOCK=8)"),
        {SCALE: "toy.user:run: launched with 4 positional arguments instead of 3"},
    ),
    Change(
        "a keyword renamed",
        edit("user", "(x, x, 1, BLOCK=8)", "(x, x, 1, BLOCK_SIZE=8)"),
        {SCALE: "toy.user:run: keyword 'BLOCK' removed, keyword 'BLOCK_SIZE' added"},
    ),
    Change(
        "a default given",
        edit("user", "(x, x, 1, BLOCK=8)", "(x, x, 1, BLOCK=8, FAST=True)"),
        {SCALE: "toy.user:run: keyword 'FAST' added"},
    ),
    Change(
        "a positional argument by name",
        edit("user", "(x, x, 1, BLOCK=8)", "(x, x, factor=1, BLOCK=8)"),
        {SCALE: "launched with 2 positional arguments instead of 3, keyword 'factor' added"},
    ),
    Change(
        "an option of the launcher",
        edit("kernels", "BLOCK=8, num_warps=4", "BLOCK=8, num_stages=4"),
        {SCALE: "toy.kernels:scale: keyword 'num_stages' added, keyword 'num_warps' removed"},
    ),
    Change(
        "unpacked options",
        edit("user", "(x, x, 1, BLOCK=8)", "(x, x, 1, BLOCK=8, **options)"),
        {SCALE: "toy.user:run: unpacked ** added"},
    ),
    Change(
        "another grid",
        edit("kernels", "(len(x), 2)", "(len(x), 2, 2)"),
        {SCALE: "toy.kernels:scale: launched on a grid of 3 dimensions instead of 2"},
    ),
    Change(
        "moved to another function",
        to_another_function,
        {SCALE: "launched in toy.user:helped and no longer in toy.user:run"},
    ),
    Change(
        "launched twice",
        edit("user", LAUNCH, f"{LAUNCH}; {LAUNCH}"),
        {SCALE: "now also launched in toy.user:run as [2](3, BLOCK)"},
    ),
    Change(
        "no longer launched",
        edit("user", LAUNCH, "return x"),
        {SCALE: "no longer launched in toy.user:run as [2](3, BLOCK)"},
    ),
    Change(
        "the module of a launch is gone",
        lambda toy: (toy.folder / "toy/user.py").unlink(),
        {SCALE: "no longer launched in toy.user:Runner.step as [?](1, *, BLOCK)"},
    ),
    Change(
        "handed to a function",
        edit("user", LAUNCH, f"{LAUNCH}; launch(kernel, x)"),
        {SCALE: "now also used in toy.user:run as itself"},
    ),
    Change(
        "asked for something",
        edit("user", LAUNCH, f"{LAUNCH}; kernel.warmup(x, grid=(1,))"),
        {SCALE: "now also asked for .warmup in toy.user:run as .warmup(1, grid)"},
    ),
    Change("other values", edit("user", "(x, x, 1, BLOCK=8)", "(more, more, 9, BLOCK=16)"), {}),
    Change("other order of keywords", edit("kernels", "BLOCK=8, num_warps=4", "num_warps=4, BLOCK=8"), {}),
    Change("another size of the grid", edit("kernels", "(len(x), 2)", "(2 * len(x), 1)"), {}),
    Change(
        "imported under another name",
        lambda toy: toy.write(
            "toy/user.py",
            toy.files["toy/user.py"]
            .replace("import scale_kernel as kernel", "import scale_kernel")
            .replace("    kernel[lambda", "    scale_kernel[lambda"),
        ),
        {},
    ),
    Change("the rest of the module of a launch", edit("user", "def run(", "LIMIT = 8\n\ndef run("), {}),
    Change(
        "the kernel of functions",
        edit("kernels", "        out = n\n".replace("        ", "    "), "    out = n + 1\n"),
        dict.fromkeys((COUNT, INDIRECT, ELSEWHERE), "kernel count_kernel that it launches changed"),
    ),
    Change(
        "the kernel of an object",
        edit("kernels", "        return x\n", "        return x + x\n"),
        {FILL: "kernel Summing.kernel that it launches changed"},
    ),
    Change(
        "what a kernel calls",
        edit("kernels", "return x + 1", "return x + 2"),
        {SCALE: "kernel helper that it launches changed"},
    ),
    Change("how a kernel is compiled", edit("kernels", 'do_not_specialize=["n"]', "do_not_specialize=[]"), {}),
    Change(
        "the kernel of a launcher",
        edit("kernels", "kernel=count_kernel", "kernel=scale_kernel"),
        {
            INDIRECT: "it no longer launches count_kernel; it now launches scale_kernel",
            SCALE: "now also used in toy.kernels:launch_count as itself",
        },
    ),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_drift(kernels: Toy, change: Change) -> None:
    registry = registry_of(*EVERY)
    known = kernels.contracts(registry)
    assert all(decision.accepted for decision in kernels.plan(registry, contracts=known))
    change.make(kernels)
    kernels.version = "1.1"
    decisions = {item.variant.rewrites[0]: item for item in kernels.plan(registry, contracts=known) if item.variant}
    drifted = {rewrite: item.reason for rewrite, item in decisions.items() if item.state is State.DRIFTED}
    assert drifted.keys() == change.noticed.keys(), drifted
    for rewrite, words in change.noticed.items():
        assert drifted[rewrite].startswith(f"{rewrite.target}: ") and words in drifted[rewrite]
        assert drifted[rewrite].endswith("since 1.0")


def test_nothing_is_parsed_while_files_are_known(kernels: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_of(*EVERY)
    known = kernels.contracts(registry)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("ast.parse", refuse)
    assert all(item.accepted and not item.unchecked for item in kernels.plan(registry, contracts=known))
    kernels.edit("toy/user.py", "BLOCK=8", "BLOCK=16")
    with pytest.raises(AssertionError, match="parsed"):
        kernels.plan(registry, contracts=known)


def test_a_launch_from_a_module_that_had_none_is_found_by_a_scan(kernels: Toy) -> None:
    registry = registry_of(*EVERY)
    store = ContractStore.of([kernels.contracts(registry)])
    assert check_usage(kernels.tree, registry, store) == ()
    kernels.write("toy/new.py", "import toy.kernels\n\ndef new(x):\n    toy.kernels.scale_kernel[(1,)](x, *x)\n")
    assert kernels.plan(registry, contracts=store.get("1.0")).decisions["toy.p0"].accepted
    (found,) = check_usage(kernels.tree, registry, store)
    assert (found.target, found.problem) == (SCALE.target, "launch")
    assert found.text == "now also launched in toy.new:new as [1](1, *) since 1.0"


def test_a_launch_that_any_known_version_had_will_do(kernels: Toy) -> None:
    registry = registry_of(SCALE)
    first = kernels.contracts(registry)
    kernels.edit("toy/user.py", "(x, x, 1, BLOCK=8)", "(x, x, 1, None, BLOCK=8)")
    later = ContractSet("1.4", kernels.contracts(registry).targets)
    kernels.version = "1.2"
    assert kernels.plan(registry, contracts=first).decisions["toy.p0"].state is State.DRIFTED
    kernels.version = "1.4"
    assert kernels.plan(registry, contracts=later).decisions["toy.p0"].accepted


def test_contracts_of_kernels_survive_a_file(kernels: Toy) -> None:
    contracts = kernels.contracts(registry_of(*EVERY))
    path = kernels.folder / "1.0.json"
    contracts.save(path)
    assert ContractSet.load(path) == contracts


@pytest.mark.parametrize("text", ["[2](3, BLOCK)", "[?]", "()", "(1, *, **)", ".warmup(1, grid)", ".kernel", "itself"])
def test_a_use_is_read_as_it_was_written(text: str) -> None:
    assert str(parse_use(text)) == text
