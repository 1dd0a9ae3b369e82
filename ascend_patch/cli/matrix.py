"""``ascend-patch verify --all``: patches x versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ascend_patch.cli import inspection, output, releases
from ascend_patch.cli.errors import Refusal
from ascend_patch.cli.output import Cell
from ascend_patch.cli.workspace import Workspace

if TYPE_CHECKING:
    from ascend_patch.cli.inspection import Inspection
    from ascend_patch.engine.plan import Decision

COLUMN_GAP = 3
"""Characters between two columns of a table on a terminal."""


class Choice(NamedTuple):
    """The versions to look at.

    Attributes:
        versions: oldest first.
        known: what the index has; None when only the cache is looked at.
    """

    versions: list[str]
    known: Mapping[str, releases.Release] | None


def verify_all(here: Workspace, *, also: str, offline: bool, strict: bool, update: bool, as_json: bool) -> bool:
    """Inspect many versions and print a table; whether all those that the patches name are in order."""
    choice = _choose(here, _also(also), offline)
    written: dict[str, inspection.Updated] = {}
    if update:  # all contracts first: they are what the versions are then compared with
        for version in choice.versions:
            if inspection.is_inside(here.registry, version):
                written[version] = inspection.update(here, here.tree(_archive(here, version, choice)))
    facts, columns, lines = [], [], []
    for version in choice.versions:
        found = inspection.inspect(here, here.tree(_archive(here, version, choice)), strict=strict)
        cells = {item.patch.id: cell(item, found) for item in found.plan}
        facts.append(found.facts() | {"cells": cells, **inspection.updated_facts(written.get(version))})
        columns.append(Column(version, version, cells))
        lines.append(_line(found))
    ok = all(item["ok"] for item in facts if item["inside"])
    if as_json:
        output.as_json({"package": here.package, "index": choice.known is not None, "ok": ok, "versions": facts})
        return ok
    for done in written.values():
        inspection.print_updated(done)
    _print_columns(here, columns)
    output.table(("version", "apply", "not needed", "falls short (required)", "remark"), lines, keep=("version",))
    _close(here, facts)
    return ok


def _also(text: str) -> list[str]:
    from ascend_patch.engine.versions import is_version

    versions = [part.strip() for part in text.split(",") if part.strip()]
    for version in versions:
        if not is_version(version):
            raise Refusal(f"--also {version!r} is no version: write it like --also 0.11.0,0.9.1")
    return versions


def _choose(here: Workspace, also: Sequence[str], offline: bool) -> Choice:
    from packaging.version import Version

    known: Mapping[str, releases.Release] | None = None
    if offline:
        output.complain("--offline: only versions that were downloaded before are looked at")
    else:
        try:
            known = releases.released(here.package, here.environ)
        except Refusal as refusal:
            output.complain(f"{refusal}; only versions that were downloaded before are looked at")
    available = releases.cached(here.package, here.environ) if known is None else known
    inside = [text for text in available if inspection.is_inside(here.registry, text)]
    versions = {Version(text): text for text in (*inside, *also) if not Version(text).is_prerelease or text in also}
    if not versions:
        raise Refusal(
            f"no released version of {here.package} {'is in the cache' if known is None else 'is'} inside the ranges "
            "of the patches: name one with --also"
        )
    return Choice([versions[version] for version in sorted(versions)], known)


def _archive(here: Workspace, version: str, choice: Choice) -> Any:
    return inspection.released(
        here, version, announce=output.complain, offline=choice.known is None, known=choice.known
    )


def cell(decision: Decision, found: Inspection) -> str:
    """A patch in a version, in one short word; see the help of `verify`."""
    if decision.unneeded:
        word = "-"
    elif decision.patch.id in found.misfits:
        word = "unfit"
    elif decision.accepted:
        word = "ok" if len(decision.patch.variants) == 1 else f"v{inspection.number(decision)}"
        word += "?" if decision.unchecked else ""
    elif any(finding.problem == "missing" for finding in decision.findings):
        word = "missing"
    elif any(finding.drifted for finding in decision.findings):
        word = "drift"
    elif decision.variant is None:
        word = "no"
    else:
        word = "held"
    return word + ("*" if decision.patch.id in found.unnecessary else "")


def _style(word: str) -> str:
    if word.startswith(("drift", "missing", "held", "unfit")):
        return "red"
    return "green" if word.startswith(("ok", "v")) else "dim"


class Column(NamedTuple):
    """Neighbouring versions in which every patch has the same cell."""

    first: str
    last: str
    cells: Mapping[str, str]

    @property
    def head(self) -> str:
        return self.first if self.first == self.last else f"{self.first}\n-{self.last}"

    @property
    def width(self) -> int:
        words = [*self.head.splitlines(), *self.cells.values()]
        return max(map(len, words)) + COLUMN_GAP


def _print_columns(here: Workspace, columns: Sequence[Column]) -> None:
    """Into a pipe one wide table with a column per version; on a terminal as many narrow ones as it takes.

    There neighbouring versions without a difference share a column: the thirty versions of a year differ in few.
    """
    blocks: list[list[Column]] = [list(columns)]
    if output.on_terminal():
        names = max(map(len, here.registry.ids)) + COLUMN_GAP
        blocks = list(_blocks(_joined(columns), output.console().width - names))
    for block in blocks:
        heads = [column.head for column in block]
        rows = [
            [Cell(id, "bold" if here.registry[id].required else ""), *(_cell(column.cells[id]) for column in block)]
            for id in here.registry.ids
        ]
        output.table(("patch", *heads), rows, keep=("patch", *heads))


def _cell(word: str) -> Cell:
    return Cell(word, _style(word))


def _joined(columns: Sequence[Column]) -> list[Column]:
    joined: list[Column] = []
    for column in columns:
        if joined and joined[-1].cells == column.cells:
            joined[-1] = joined[-1]._replace(last=column.last)
        else:
            joined.append(column)
    return joined


def _blocks(columns: Sequence[Column], room: int) -> Iterator[list[Column]]:
    """The columns in groups that fit into `room` characters; a group has at least one."""
    block: list[Column] = []
    for column in columns:
        if block and sum(item.width for item in block) + column.width > room:
            yield block
            block = []
        block.append(column)
    yield block


def _line(found: Inspection) -> list[str | Cell]:
    """A version in the second table."""
    remarks = [] if found.inside else ["outside the ranges"]
    if found.plan.standing.reason:
        remarks.append(f"taken for {found.plan.standing.version}")
    if found.inside and found.known is None:
        remarks.append("no contract file")
    short = ", ".join(found.short)
    return [
        found.version,
        f"{found.applied} of {len(found.plan.decisions)}",
        str(len(found.unneeded) or "-"),
        Cell(short or "none", "red" if short else "green"),
        "; ".join(remarks),
    ]


def _close(here: Workspace, facts: Sequence[Mapping[str, Any]]) -> None:
    """What the tables mean: on standard error what must be looked at, then what may be."""
    inside = [item for item in facts if item["inside"]]
    for item in inside:
        if not item["ok"]:
            what = f"required {', '.join(item['short'])} fall short" if item["short"] else "patches drifted"
            output.complain(
                f"{here.package} {item['version']}: {what}: see 'ascend-patch verify --vllm {item['version']}'"
            )
    for id in here.registry.ids:
        found = [
            (item["version"], entry["signs"]) for item in facts for entry in item["unnecessary"] if entry["id"] == id
        ]
        if found:
            versions = ", ".join(version for version, _ in found)
            output.say(f"upstream seems to have outgrown {id} in {versions}: {'; '.join(found[-1][1])}", "yellow")
    good = sum(item["ok"] for item in inside)
    style = "green" if good == len(inside) else "bold red"
    output.say(f"nothing required falls short in {good} of the {len(inside)} versions that the patches name", style)
