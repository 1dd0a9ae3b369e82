"""What commands print: tables and colours on a terminal, plain whole lines into a pipe, JSON on request.

Into a pipe nothing is boxed, wrapped or cut, so that `grep` and `awk` see what
a person sees. Colours follow the usual variables: NO_COLOR turns them off
(any value that is not empty), FORCE_COLOR keeps the terminal output in a pipe.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

STYLES: Mapping[str, str] = {
    "applies": "green",
    "applied": "green",
    "ok": "green",
    "on": "green",
    "pending": "cyan",
    "skipped": "dim",
    "disabled": "dim",
    "off": "dim",
    "not-needed": "dim",
    "warning": "yellow",
    "drifted": "red",
    "unfit": "red",
    "rolled-back": "yellow",
    "failed": "bold red",
    "error": "bold red",
    "required": "bold",
}
"""Word to style, for cells whose text is one of our own state words."""


WIDE = 100


class Cell(NamedTuple):
    """Text in a table with a style of its own."""

    text: str
    style: str = ""


def state_cell(word: str) -> Cell:
    """A state word in its colour."""
    return Cell(word, STYLES.get(word, ""))


def on_terminal() -> bool:
    """Whether to lay out for a person in front of a screen."""
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def console() -> Console:
    """A rich console on the current standard output. Only for `on_terminal` output: importing rich is slow."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def say(text: str = "", style: str = "") -> None:
    """One line of text; styled on a terminal."""
    if style and on_terminal():
        console().print(text, style=style, soft_wrap=True)
    else:
        print(text)


def complain(text: str) -> None:
    """One line on standard error."""
    print(f"ascend-patch: {text}", file=sys.stderr)


def heading(text: str) -> None:
    """A line that begins a section."""
    say(text, "bold")


def field(name: str, value: str, width: int = 18) -> None:
    """``name   value`` with the values of successive fields below each other; a value may have several lines."""
    lines = value.splitlines() or [""]
    if on_terminal():
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=width, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(name, style="bold"), Text(value))
        console().print(Padding(grid, 0))
        return
    print(f"{name:<{width}}  {lines[0]}".rstrip())
    for line in lines[1:]:
        print(f"{'':<{width}}  {line}".rstrip())


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Cell]],
    keep: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print rows under column names.

    Args:
        keep: columns that are never folded on a terminal.
        spare: columns that a terminal of less than `WIDE` characters does without.
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    if on_terminal():
        if spare and console().width < WIDE:
            shown = [index for index, name in enumerate(columns) if name not in spare]
            columns = [columns[index] for index in shown]
            cells = [[row[index] for index in shown] for row in cells]
        _rich_table(columns, cells, keep)
    else:
        _plain_table(columns, cells)


def diff(text: str) -> None:
    """A unified diff; coloured on a terminal."""
    if on_terminal():
        from rich.syntax import Syntax

        console().print(Syntax(text, "diff", theme="ansi_dark", word_wrap=True, background_color="default"))
    else:
        print(text)


def as_json(value: object) -> None:
    """The value as indented JSON, and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    lines = [[name.upper() for name in columns], *([" ".join(cell.text.split()) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], keep: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        grid.add_column(name, no_wrap=name in keep, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell.text, style=cell.style) for cell in row))
    console().print(grid)
