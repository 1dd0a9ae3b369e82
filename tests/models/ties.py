"""Comparing greedy tokens in a short type: equal, or different where the reference itself hardly prefers its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.end_to_end.worker import Worker


class Difference(NamedTuple):
    """The first token in which an answer differs from the reference's; up to there both have the same context.

    Attributes:
        margin: by how much the reference's logits prefer its own token.
        rounding: the largest change that the short type makes to any of its logits there.
    """

    prompt: int
    position: int
    margin: float
    rounding: float


def check(
    reference: Worker,
    folder: str,
    prompts: list[list[int]],
    answers: list[dict[str, Any]],
    expected: list[dict[str, Any]],
    *,
    dtype: str = "bfloat16",
    jitters: int = 0,
) -> list[Difference]:
    """Assert that `answers` are `expected`, the reference's tokens in a short type, up to its ties; returns those.

    It is a tie if the reference prefers its own token by less than twice its own rounding. Behind a tie contexts
    differ, and nothing is compared.

    Args:
        jitters: evaluations with embeddings that differ in their last bit. Where a bit decides (two experts that are
            nearly as good, an activation between two integers), one evaluation does not show how much.
    """
    found = list(_differences(reference, folder, zip(prompts, answers, expected, strict=True), dtype, jitters))
    assert all(difference.margin <= 2 * difference.rounding for difference in found), found
    return found


def _differences(
    reference: Worker, folder: str, cases: Iterable[tuple[list[int], Any, Any]], dtype: str, jitters: int
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
        rounding = max(abs(low - high) for row in rounded for low, high in zip(row, exact, strict=True))
        yield Difference(number, position, margin, rounding)


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
