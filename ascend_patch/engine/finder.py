"""A finder that calls back right before and right after chosen modules execute.

It acts on the names it was given and on nothing else: a name it does not know costs one
dictionary lookup. The module's own loader does all the work, and is back in its place
before the module's first line runs, so nothing that inspects the module can tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], None]


class HookingLoader:
    """Stands in for a module's loader until the module executes."""

    def __init__(self, loader: Any, before: Sequence[Hook], after: Sequence[Hook]) -> None:
        self._loader = loader
        self._before = before
        self._after = after

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._loader, "create_module", None)
        spec.loader = self._loader
        try:
            module: ModuleType | None = create(spec) if create is not None else None
        finally:
            spec.loader = self  # type: ignore[assignment]
        return module

    def exec_module(self, module: ModuleType) -> None:
        # Upstream's loader goes back first: pkg_resources, inspect and importlib.resources look at it,
        # some of them while the module is still executing.
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader
        module.__loader__ = self._loader
        for hook in self._before:
            hook(module)
        self._loader.exec_module(module)
        for hook in self._after:
            hook(module)

    def __getattr__(self, name: str) -> Any:
        # Whoever got the spec from importlib.util.find_spec may ask the loader for data or source.
        return getattr(self._loader, name)


class HookFinder:
    """The finder for ``sys.meta_path``."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[Hook, ...]] = {}
        self._after: dict[str, tuple[Hook, ...]] = {}

    def before(self, module: str, hook: Hook) -> None:
        """Call `hook` with the module just before it executes; what it raises fails the import."""
        self._before[module] = (*self._before.get(module, ()), hook)

    def after(self, module: str, hook: Hook) -> None:
        """Call `hook` with the module right after it has executed, before any importer goes on."""
        self._after[module] = (*self._after.get(module, ()), hook)

    def forget(self, module: str, hook: Hook) -> None:
        """Take a hook back."""
        for table in (self._before, self._after):
            rest = tuple(item for item in table.get(module, ()) if item != hook)
            if rest:
                table[module] = rest
            else:
                table.pop(module, None)

    @property
    def idle(self) -> bool:
        return not self._before and not self._after

    def install(self) -> None:
        """Put the finder first. A second call does nothing."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Take the finder out."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        before, after = self._before.get(name, ()), self._after.get(name, ())
        if not before and not after:
            return None
        spec = self._find_behind(name, path, target)
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return spec
        spec.loader = HookingLoader(spec.loader, before, after)  # type: ignore[assignment]
        return spec

    def _find_behind(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        # Ask the finders behind us by hand. importlib.util.find_spec would start over at the first
        # one (ourselves), and takes the import lock of the parent package.
        finders = list(sys.meta_path)
        behind = finders[finders.index(self) + 1 :] if self in finders else finders
        for finder in behind:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find is not None else None
            if spec is not None:
                return spec
        return None
