"""Comparing greedy tokens in a short type: equal, or different where the reference itself hardly prefers its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from tests.end_to_end.worker import Worker


class Difference(NamedTuple):
    """The first token in which an answer differs from the reference's; up to there both have the same context.

    Attributes:
        margin: by how much the reference's logits prefer its own token.
        rounding: the largest change that the short type makes to any of its logits there.
        by_routers: both are those of the reference with our routers' choices; it had made others by a rounding.
    """

    prompt: int
    position: int
    margin: float
    rounding: float
    by_routers: bool = False


Routers = Callable[[list[int]], dict[str, list[list[float]]]]
"""What our routers say about each token of a context, by their names; see `engine_functions.routers_of`."""


def check(
    reference: Worker,
    folder: str,
    prompts: list[list[int]],
    answers: list[dict[str, Any]],
    expected: list[dict[str, Any]],
    *,
    dtype: str = "bfloat16",
    jitters: int = 0,
    routers: Routers | None = None,
) -> list[Difference]:
    """Assert that `answers` are `expected`, the reference's tokens in a short type, up to its ties; returns those.

    It is a tie if the reference prefers its own token by less than twice its own rounding. Behind a tie contexts
    differ, and nothing is compared.

    Args:
        jitters: evaluations with embeddings that differ in their last bit. Where a bit decides (two experts that are
            nearly as good, an activation between two integers), one evaluation does not show how much.
        routers: with these, a difference that is no tie may come from a choice of experts that is one: the reference
            gets our choices, and must then agree with each router and with the token.
    """
    cases = zip(prompts, answers, expected, strict=True)
    found = list(_differences(reference, folder, cases, dtype, jitters, routers))
    assert all(difference.margin <= 2 * difference.rounding for difference in found), found
    return found


def _differences(
    reference: Worker,
    folder: str,
    cases: Iterable[tuple[list[int], Any, Any]],
    dtype: str,
    jitters: int,
    routers: Routers | None,
) -> Iterator[Difference]:
    for number, (prompt, ours, theirs) in enumerate(cases):
        pairs = list(zip(ours["token_ids"], theirs["token_ids"], strict=True))
        position = next((index for index, (one, other) in enumerate(pairs) if one != other), None)
        if position is None:
            continue
        our_token, their_token = pairs[position]
        context = prompt + theirs["token_ids"][:position]
        exact, *rounded = (
            reference.call("reference_logits", folder=folder, dtype=kind, tokens=context, jitter=seed)[-1]
            for kind, seed in (("float32", None), (dtype, None), *((dtype, seed) for seed in range(jitters)))
        )
        margin = rounded[0][their_token] - rounded[0][our_token]
        rounding = _furthest(rounded, [exact] * len(rounded))
        by_routers = routers is not None and margin > 2 * rounding
        if routers is not None and by_routers:
            margin, rounding = _with_our_choices(reference, folder, context, dtype, routers, our_token, their_token)
        yield Difference(number, position, margin, rounding, by_routers)


def _with_our_choices(
    reference: Worker, folder: str, context: list[int], dtype: str, routers: Routers, our_token: int, their_token: int
) -> tuple[float, float]:
    """Margin and rounding when the reference's experts are those that our routers chose.

    Each router is compared as well, after the layers before it have used our choices: what differs there by more than
    the short type explains is no tie, but a fault.
    """
    given = routers(context)
    assert given, "no router was found"
    exact, rounded = (
        reference.call("reference_logits_with_routers", folder=folder, dtype=kind, tokens=context, given=given)
        for kind in ("float32", dtype)
    )
    for name, ours in given.items():
        rounding = _furthest(rounded["routers"][name], exact["routers"][name])
        difference = _furthest(rounded["routers"][name], ours)
        assert difference <= 2 * rounding, f"{name} differs by {difference}, which the type's {rounding} do not explain"
    logits = rounded["logits"]
    return logits[their_token] - logits[our_token], _furthest([logits], [exact["logits"]])


def _furthest(rows: list[list[float]], others: list[list[float]]) -> float:
    pairs = (
        (one, other) for row, their in zip(rows, others, strict=True) for one, other in zip(row, their, strict=True)
    )
    return max(abs(one - other) for one, other in pairs)


def equal_up_to_ties(reference: Worker, folder: str, prompt: Any, ours: list[int], theirs: list[int]) -> bool:
    """Whether an answer in bfloat16 to a prompt of `tests.models.sight` is the reference's up to a tie; see `check`."""
    place = next((index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), None)
    if place is None:
        return True
    context = {"folder": folder, "prompt": prompt, "tokens": theirs[:place]}
    exact, rounded = (
        reference.call("reference_next_logits", dtype=dtype, **context) for dtype in ("float32", "bfloat16")
    )
    rounding = max(abs(low - high) for low, high in zip(rounded, exact, strict=True))
    return bool(rounded[theirs[place]] - rounded[ours[place]] <= 2 * rounding)
