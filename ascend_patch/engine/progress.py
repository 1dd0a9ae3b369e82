"""What an overlay is told and what it tells: the package, each patch's progress, status and undo reports."""

from __future__ import annotations

from ascend_patch.value import Value

from .plan import Decision
from .vocabulary import State


class Package(Value):
    """The package that is patched, and what the engine has to be told about it.

    Attributes:
        name: its import name.
        distribution: its name in the package index.
        start_gates: modules that only a process imports which really starts the package's work;
            a missing required patch is an error at their import and not before.
    """

    name: str
    distribution: str = ""
    start_gates: tuple[str, ...] = ()


class PatchStatus(Value):
    """One patch in this process.

    Attributes:
        applied: modules in which it is installed.
        pending: target modules that are not imported yet.
        late: target modules that were imported before the overlay.
        early_importers: ``module:name`` places that had bound the original by then; they were rewritten.
        stale_aliases: ``module:name`` places, outside the package, that still hold the original.
        unneeded: whether this version works without the patch.
    """

    id: str
    state: State
    reason: str = ""
    traceback: str = ""
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    early_importers: tuple[str, ...] = ()
    stale_aliases: tuple[str, ...] = ()
    unneeded: bool = False


class UndoReport(Value):
    """What an undo did.

    Attributes:
        undone: ids, in the order in which they were undone.
        kept: places that somebody else had changed since, with who holds them; they were left alone.
    """

    undone: tuple[str, ...]
    kept: tuple[str, ...]


class Progress:
    """How far one patch is; changed only under the overlay's lock."""

    def __init__(self, decision: Decision) -> None:
        """The start of a decision's way; one that was not accepted ends here."""
        rewrites = decision.variant.rewrites if decision.accepted and decision.variant else ()
        self.decision = decision
        self.state = decision.state
        self.reason = decision.reason
        self.traceback = ""
        self.modules = tuple(dict.fromkeys(rewrite.place.module for rewrite in rewrites))
        self.done: list[str] = []
        self.late: list[str] = []
        self.early: list[str] = []

    @property
    def live(self) -> bool:
        return self.state in (State.PENDING, State.APPLIED)

    @property
    def pending(self) -> tuple[str, ...]:
        return tuple(name for name in self.modules if name not in self.done) if self.live else ()

    def status(self, stale_aliases: tuple[str, ...]) -> PatchStatus:
        """A snapshot for others."""
        return PatchStatus(
            id=self.decision.patch.id,
            state=self.state,
            reason=self.reason,
            traceback=self.traceback,
            applied=tuple(self.done),
            pending=self.pending,
            late=tuple(self.late),
            early_importers=tuple(dict.fromkeys(self.early)),
            stale_aliases=stale_aliases,
            unneeded=self.decision.unneeded,
        )
