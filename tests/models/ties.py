"""Where greedy tokens differ: whether the reference's own rounding could have decided otherwise."""

from __future__ import annotations

from collections.abc import Iterator
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

    @property
    def tie(self) -> bool:
        return self.margin <= 2 * self.rounding


def differences(
    reference: Worker,
    folder: str,
    prompts: list[list[int]],
    expected: list[Any],
    got: list[Any],
    dtype: str = "bfloat16",
    jitters: int = 0,
) -> Iterator[Difference]:
    """The differences between answers in a short type, each an object with `token_ids`.

    Args:
        jitters: evaluations with embeddings that differ in their last bit. Where a bit decides (two experts that are
            nearly as good, an activation between two integers), one evaluation does not show how much.
    """
    for number, (prompt, ours, theirs) in enumerate(zip(prompts, got, expected, strict=True)):
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
