"""The overlay in one process: patches modules as they execute, keeps a journal, can undo it all."""

from __future__ import annotations

import logging
import sys
import threading
import traceback as traceback_
from collections.abc import Callable, Iterable
from types import ModuleType

from . import aliases, marks
from .errors import OverlayError, RequiredPatchError
from .finder import HookFinder
from .journal import Journal
from .plan import Plan, fallen_with, sentence
from .progress import Package, PatchStatus, Progress, UndoReport
from .registry import Registry, rewrites_of
from .rewriting import make, resolve
from .vocabulary import State

__all__ = ["Overlay", "Package", "PatchStatus", "UndoReport", "current", "fingerprint", "owner_of", "set_current"]

log = logging.getLogger("ascend_patch")


class Overlay:
    """Carries out a plan. Thread-safe; `install` and the patching of each module are idempotent.

    Locking: `_lock` protects the journal and the states. It is never held while something is
    imported, because another thread may hold that module's import lock and wait for ours.
    """

    def __init__(
        self,
        package: Package,
        plan: Plan,
        registry: Registry,
        *,
        finder: HookFinder | None = None,
        on_change: Callable[..., None] | None = None,
        warn: bool = True,
    ) -> None:
        """Prepare; nothing is changed yet.

        Args:
            finder: a finder that is in ``sys.meta_path`` already, to add our hooks to.
            on_change: called whenever states may have changed, with the ids of the patches, or without for all.
            warn: whether this process logs the one warning about optional patches that are out.
        """
        self.package = package
        self.plan = plan
        self.registry = registry
        self._finder = finder or HookFinder()
        self.on_change = on_change or (lambda *_: None)
        self._warn = warn
        self._lock = threading.RLock()
        self._installed = False
        self._gate_passed = False
        self._journal = Journal(package.name)
        self._progress = {item.patch.id: Progress(item) for item in plan}

    @property
    def fingerprint(self) -> str:
        """Identifies the set of patches and their code; the same in all processes that agree."""
        return self.plan.fingerprint

    @property
    def gate_passed(self) -> bool:
        """Whether this process has started the package's work."""
        return self._gate_passed

    @property
    def settled(self) -> bool:
        """Whether no patch waits for a module any more."""
        return not any(progress.pending for progress in self._progress.values())

    # -- installing --------------------------------------------------------------------------------

    def install(self) -> None:
        """Patch what is imported already, and wait for the rest. A second call does nothing.

        Raises:
            RequiredPatchError: a start gate was imported before and a required patch is not in force.
        """
        with self._lock:
            if self._installed:
                return
            self._installed = True
        for name in self._targets():
            self._finder.after(name, self._executed)
        for gate in self.package.start_gates:
            self._finder.before(gate, self._pass_gate)
        self._finder.install()
        for name in self._targets():
            self._catch_up(name)
        warnings = self.plan.warnings()
        if warnings and self._warn:
            log.warning("%s", "\n".join(warnings))
        if any(_has_executed(gate) for gate in self.package.start_gates):
            self.check_start()
        self.on_change()

    def _targets(self) -> list[str]:
        return list(dict.fromkeys(name for item in self._progress.values() for name in item.modules))

    def _catch_up(self, name: str) -> None:
        """Patch a module that was imported before us."""
        if not _has_executed(name):
            return
        module = sys.modules[name]
        for progress in self._in_order(name):
            if name not in progress.done:
                progress.late.append(name)
                self._apply(progress, module, lambda: aliases.loaded(self.package.name))

    def _executed(self, module: ModuleType) -> None:
        """The finder's call: a target module has just executed, for the first time or again (reload)."""
        name = module.__name__
        with self._lock:
            self._journal.executed_again(module)
        patches = self._in_order(name)
        for progress in patches:
            # Only this module, and those imported while it executed, can have bound its names already.
            self._apply(progress, module, lambda: [module, *aliases.imported_since(module, self.package.name)])
        self.on_change(*(progress.decision.patch.id for progress in patches))

    def _in_order(self, module: str) -> list[Progress]:
        return [item for item in self._progress.values() if module in item.modules]

    def _apply(self, progress: Progress, module: ModuleType, neighbours: Callable[[], Iterable[ModuleType]]) -> None:
        """Make a patch's rewrites in one module, or take its whole feature back."""
        patch, variant = progress.decision.patch, progress.decision.variant
        assert variant is not None
        name = module.__name__
        try:
            resolved = [resolve(patch, rewrite) for rewrite in rewrites_of(variant, name)] if progress.live else []
            with self._lock:
                if not progress.live:
                    return
                for item in resolved:
                    changes = make(item, module)
                    progress.early += self._journal.add(patch.id, changes, neighbours)
                if name not in progress.done:
                    progress.done.append(name)
                if not progress.pending:
                    progress.state = State.APPLIED
        except Exception as error:
            self._fail(progress, name, error)

    def _fail(self, progress: Progress, module: str, error: Exception) -> None:
        """Undo a patch and its feature, in all modules, and remember why."""
        broken = progress.decision.patch
        with self._lock:
            progress.state = State.FAILED
            progress.reason = f"in {module}: {type(error).__name__}: {error}"
            progress.traceback = "".join(traceback_.format_exception(error))
            standing = [id for id, item in self._progress.items() if item.live]
            fallen = fallen_with(self.registry, broken.id, standing)
            fallen = (*fallen, *self._stacked_on({broken.id, *fallen}))
            for id in fallen:
                self._progress[id].state = State.ROLLED_BACK
                self._progress[id].reason = f"it belongs to the feature {broken.id}, which failed: {progress.reason}"
            kept = self._take_back({broken.id, *fallen})
            if kept:
                progress.reason += f"; not rolled back: {'; '.join(kept)}"
        self.on_change()
        if self._gate_passed:
            self.check_start()
        if self._warn and not (broken.required or self.plan.strict):
            log.warning("%s", self._sentence(progress))

    # -- the start gate ----------------------------------------------------------------------------

    def check_start(self) -> None:
        """Raise unless everything required is in force (or will be, as its modules come in).

        Raises:
            RequiredPatchError: with a line for each patch that is missing.
        """
        problems = self.plan.problems()
        for progress in self._progress.values():
            out_since = progress.decision.accepted and not progress.live
            if out_since and (progress.decision.patch.required or self._drifted_in_strict(progress)):
                problems.append(self._sentence(progress))
        if problems:
            raise RequiredPatchError("\n".join(problems))

    def _drifted_in_strict(self, progress: Progress) -> bool:
        return self.plan.strict and progress.state in (State.FAILED, State.ROLLED_BACK)

    def _pass_gate(self, _: ModuleType) -> None:
        self._gate_passed = True
        self.sweep()
        self.on_change()
        self.check_start()

    def _sentence(self, progress: Progress) -> str:
        patch = progress.decision.patch
        return sentence(self.plan.package, self.plan.version, patch, progress.state, progress.reason)

    def sweep(self) -> None:
        """Look once more for names in the package that still hold an original, and make them follow."""
        with self._lock:
            for id, places in self._journal.sweep().items():
                self._progress[id].early += places

    # -- undoing -----------------------------------------------------------------------------------

    def undo(self, *ids: str) -> UndoReport:
        """Take patches back, with those that require them; all of them without arguments.

        Raises:
            OverlayError: there is no such patch.
        """
        unknown = [id for id in ids if id not in self.registry]
        if unknown:
            raise OverlayError(f"there is no patch {unknown[0]}: see 'ascend-patch list'")
        wanted = set(ids or self.registry.ids)
        for id in ids:
            wanted.update(self.registry.dependents(id))
        with self._lock:
            wanted.update(self._stacked_on(wanted))
            undone = [id for id in reversed(self.registry.ids) if id in wanted and self._progress[id].live]
            kept = self._take_back(set(undone))
            for id in undone:
                self._progress[id].state = State.DISABLED
                self._progress[id].reason = "undone in this process" + (f"; {'; '.join(kept)}" if kept else "")
                self._progress[id].done.clear()
            if not any(progress.live for progress in self._progress.values()):
                self._withdraw()
        self.on_change()
        return UndoReport(tuple(undone), tuple(kept))

    def _stacked_on(self, ids: set[str]) -> tuple[str, ...]:
        """Live patches that lie on top of these in some place, with those that require them, transitively."""
        found: set[str] = set()
        while True:
            above = self._journal.above(ids | found)
            more = above.union(*(self.registry.dependents(id) for id in above)) - ids - found
            more = {id for id in more if self._progress[id].live}
            if not more:
                return tuple(id for id in self.registry.ids if id in found)
            found |= more

    def _take_back(self, ids: set[str]) -> list[str]:
        """Undo all changes of these patches; returns what somebody else holds now."""
        for id in ids:
            self._progress[id].done.clear()
        return self._journal.take_back(ids)

    def _withdraw(self) -> None:
        for name in self._targets():
            self._finder.forget(name, self._executed)
        for gate in self.package.start_gates:
            self._finder.forget(gate, self._pass_gate)
        if self._finder.idle:
            self._finder.remove()

    # -- looking -----------------------------------------------------------------------------------

    def status(self, *ids: str, aliases: bool = True) -> list[PatchStatus]:
        """These patches, or every patch, in the order of application.

        Args:
            aliases: whether to look for stale aliases, through every name of every module (milliseconds).
        """
        with self._lock:
            stale = self._journal.stale() if aliases else {}
            asked = {id: self._progress[id] for id in ids or self._progress}
            return [item.status(tuple(stale.get(id, ()))) for id, item in asked.items()]


def _has_executed(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None:
        return False
    return not getattr(getattr(module, "__spec__", None), "_initializing", False)


_current: Overlay | None = None


def current() -> Overlay | None:
    """The overlay that is active in this process, if any."""
    return _current


def set_current(overlay: Overlay | None) -> None:
    """Make `overlay` the one that `current` and `fingerprint` speak of."""
    global _current
    _current = overlay


def fingerprint() -> str:
    """The active patch set's fingerprint, '' without one: a part of every cache key for compiled code."""
    return _current.fingerprint if _current is not None else ""


def owner_of(obj: object) -> str:
    """The patch that installed `obj`, or ''."""
    return marks.owner_of(obj)
