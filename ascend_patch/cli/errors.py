"""The one way a command refuses: a line that says what is wrong and what to do, and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

OK = 0
FINDING = 1
"""The command worked and what it looked at is not in order: drift, disagreement, an error found, a file out of date."""
USAGE = 2
"""Wrong usage, contradictory settings, an unreadable file, an unsupported version. Nothing was changed."""


class Refusal(Exception):
    """A command cannot do what was asked. The message is one line: the cause, then the remedy."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


def near_matches(word: str, known: Iterable[str]) -> list[str]:
    """Up to three of `known` that the user may have meant, best first."""
    known = list(known)
    close = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.75)
    # A bare name, or the wrong area before it, is the commonest slip and not always close in letters.
    tail = word.lower().rpartition(".")[2]
    same_name = [candidate for candidate in known if candidate.rpartition(".")[2] == tail]
    return list(dict.fromkeys([*same_name, *close]))[:3]


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """`` did you mean a.b?`` for the end of a message, or `otherwise` if nothing is near."""
    near = near_matches(word, known)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
