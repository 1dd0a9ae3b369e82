"""Can our function be called like the one it replaces? Compared as text: a contract knows only upstream's side."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from ascend_patch.engine.contract_checking import looked_through
from ascend_patch.engine.contracts import ContractSet
from ascend_patch.engine.launches import Use, parse_use, uses_in
from ascend_patch.engine.sources import SourceFile, SourceTree
from ascend_patch.engine.syntax import FunctionNode, bindings, dotted, find_definition
from ascend_patch.engine.vocabulary import Patch, Replace, Variant

LAUNCHED = "Launched"
"""The decorator of what stands in for a kernel: ``kernel[grid](...)`` calls the function with the grid in front."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def misfits(patch: Patch, tree: SourceTree, variant: Variant | None, known: ContractSet | None = None) -> list[str]:
    """Why a call of upstream's function would fail with ours in its place, a sentence for each; usually none.

    What is not a plain ``def`` on both sides, or stands in for a kernel (`LAUNCHED`), cannot be told here and is
    left out.

    Args:
        known: the contracts of the tree's version, which tell who launches a kernel from another module.
    """
    return list(_misfits(patch, tree, variant, known)) if variant is not None else []


def _misfits(patch: Patch, tree: SourceTree, variant: Variant, known: ContractSet | None) -> Iterator[str]:
    for rewrite in variant.rewrites:
        if not isinstance(rewrite, Replace):
            continue
        definition = find_definition(tree, rewrite.place)
        module, _, name = rewrite.by.partition(":")
        ours = _ours(module or patch.module, name)
        if definition is None or definition.kind in ("property", "class", "variable", "import") or ours is None:
            continue
        theirs = definition.nodes[-1]
        if ours.decorator_list:
            contract = known.targets.get(rewrite.target) if known is not None else None
            modules = looked_through(rewrite.place, contract) if contract is not None else [rewrite.place.module]
            for site, uses in uses_in(tree, modules, rewrite.place).items():
                for use in map(parse_use, uses):
                    for problem in launch_refusals(use, ours) if use.grid else ():
                        yield f"{rewrite.target}: {problem} when {site} launches it as {use}"
        elif isinstance(theirs, FunctionNode):
            for problem in refusals(theirs, ours):
                yield f"{rewrite.target}: {problem}"


def _ours(module: str, name: str) -> _Function | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    nodes = bindings(SourceFile(module, spec.origin, Path(spec.origin).read_bytes()).syntax.body, name)
    last = nodes[-1] if nodes else None
    # A decorator may put anything into the slot.
    known = isinstance(last, FunctionNode) and [dotted(item) for item in last.decorator_list] in ([], [LAUNCHED])
    return last if isinstance(last, FunctionNode) and known else None


def refusals(theirs: _Function, ours: _Function) -> Iterator[str]:
    """What a caller of `theirs` may pass and `ours` does not take, and what `ours` wants and nobody passes."""
    upstream, function = theirs.args, ours.args
    given = [*upstream.posonlyargs, *upstream.args]
    taken = [*function.posonlyargs, *function.args]
    names = {item.arg for item in (*taken, *function.kwonlyargs)}
    for index, item in enumerate(given):
        if index < len(taken) and (taken[index].arg == item.arg or index < len(upstream.posonlyargs)):
            continue
        if index >= len(taken) and function.vararg is not None:
            continue
        if item.arg in names:
            yield f"our function has parameter '{item.arg}' in another place"
        elif index < len(taken):
            yield f"our function calls parameter '{item.arg}' '{taken[index].arg}'"
        else:
            yield f"our function has no parameter '{item.arg}'"
    for item in upstream.kwonlyargs:
        if item.arg not in names and function.kwarg is None:
            yield f"our function has no parameter '{item.arg}'"
    passed = {item.arg for item in (*given, *upstream.kwonlyargs)}
    wanted = taken[len(given) : len(taken) - len(function.defaults)]
    wanted += [item for item, default in zip(function.kwonlyargs, function.kw_defaults, strict=True) if default is None]
    for item in wanted:
        if item.arg not in passed:
            yield f"our function wants a parameter '{item.arg}' that upstream's callers do not pass"


def launch_refusals(use: Use, ours: _Function) -> Iterator[str]:
    """What `ours`, which gets the grid first, does not take of a launch, and what it misses."""
    function = ours.args
    taken = [item.arg for item in (*function.posonlyargs, *function.args)]
    given, keywords = 1 + use.positional, set(use.keywords)
    if given > len(taken) and function.vararg is None:
        yield f"our function takes {len(taken) - 1} arguments by position"
    allowed = {*taken[given:], *(item.arg for item in function.kwonlyargs)}
    for name in sorted(keywords - allowed - {"*", "**"}) if function.kwarg is None else ():
        yield f"our function does not take '{name}' by name"
    if keywords & {"*", "**"}:  # may be anything
        return
    wanted = taken[given : len(taken) - len(function.defaults)]
    wanted += [
        item.arg for item, default in zip(function.kwonlyargs, function.kw_defaults, strict=True) if default is None
    ]
    for name in wanted:
        if name not in keywords:
            yield f"our function misses '{name}'"
