"""Comparing greedy tokens in bfloat16: equal, or different where the reference itself hardly prefers its own."""

from __future__ import annotations

from typing import Any

from tests.end_to_end.worker import Worker


def check(
    reference: Worker,
    folder: str,
    prompts: list[list[int]],
    answers: list[dict[str, Any]],
    expected: list[dict[str, Any]],
) -> None:
    """Assert that `answers` are `expected`, transformers' bfloat16 tokens, up to the reference's ties.

    It is a tie if the reference prefers its own token by less than its own rounding: twice the largest change that
    bfloat16 makes to any of its logits there. Behind a tie contexts differ, and nothing is compared.
    """
    for prompt, ours, theirs in zip(prompts, answers, expected, strict=True):
        pairs = zip(ours["token_ids"], theirs["token_ids"], strict=True)
        first = next((index for index, pair in enumerate(pairs) if pair[0] != pair[1]), None)
        if first is None:
            continue
        context = prompt + theirs["token_ids"][:first]
        low, high = (
            reference.call("reference_logits", folder=folder, dtype=dtype, tokens=context)[-1]
            for dtype in ("bfloat16", "float32")
        )
        margin = low[theirs["token_ids"][first]] - low[ours["token_ids"][first]]
        rounding = max(abs(a - b) for a, b in zip(low, high, strict=True))
        assert margin <= 2 * rounding, f"differs at token {first}: margin {margin:.4f}, rounding {rounding:.4f}"
