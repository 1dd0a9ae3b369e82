"""What a command works on: a registry of patches, a package they patch, settings, an environment.

Commands get a `Workspace` and never look these up themselves, so that they work
on a toy registry as well as on the real one. Nothing is loaded before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ascend_patch.cli.errors import Refusal, suggestion

if TYPE_CHECKING:
    import typer

    from ascend_patch.engine.contracts import ContractStore
    from ascend_patch.engine.plan import Plan, Selection, Standing
    from ascend_patch.engine.registry import Registry
    from ascend_patch.engine.sources import SourceTree
    from ascend_patch.engine.vocabulary import Patch
    from ascend_patch.settings import Settings


@dataclass
class Workspace:
    """One registry and the package it patches.

    Attributes:
        patches: dotted name of the package that holds the patch modules.
        package: import name of the patched package.
        directory: where a project's ``ascend_patch.toml`` is looked for; the current folder by default.
        environ: environment variables the settings are read from.
        contracts: folder of the contract files; by default ``contracts`` next to the patches.
    """

    patches: str = "ascend_patch.patches"
    package: str = "vllm"
    directory: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    contracts: Path | None = None

    @cached_property
    def registry(self) -> Registry:
        """All patches.

        Raises:
            Refusal: a patch module does not load or is declared wrongly.
        """
        from ascend_patch.engine import registry
        from ascend_patch.engine.vocabulary import DeclarationError

        try:
            return registry.load(self.patches)
        except (DeclarationError, ImportError, SyntaxError) as error:
            raise Refusal(f"the patches in {self.patches} do not load: {error}") from error

    @cached_property
    def store(self) -> ContractStore:
        """The contract files shipped with the patches."""
        from ascend_patch.engine.contracts import ContractStore

        return ContractStore(self.contracts_folder)

    @cached_property
    def contracts_folder(self) -> Path:
        """Folder of the contract files."""
        if self.contracts is not None:
            return self.contracts
        return self.patches_folder / "contracts"

    @cached_property
    def patches_folder(self) -> Path:
        """Folder of the package of patches."""
        import importlib

        module = importlib.import_module(self.patches)
        return Path(next(iter(module.__path__)))

    @cached_property
    def settings(self) -> Settings:
        """Environment and files together, checked against the registry."""
        from ascend_patch import settings

        loaded = settings.load(self.environ, self.directory)
        loaded.validate(self.registry)
        return loaded

    def with_environ(self, environ: Mapping[str, str]) -> Workspace:
        """The same under other environment variables; what depends on them is read anew."""
        other = Workspace(self.patches, self.package, self.directory, environ, self.contracts)
        other.registry = self.registry
        return other

    def patch(self, patch_id: str) -> Patch:
        """The patch called `patch_id`.

        Raises:
            Refusal: there is none; the message names the nearest.
        """
        self.check_ids([patch_id])
        return self.registry[patch_id]

    def check_ids(self, patch_ids: list[str]) -> None:
        """Refuse ids that no patch has, before anything is done with the others."""
        unknown = [patch_id for patch_id in patch_ids if patch_id not in self.registry]
        if unknown:
            hint = suggestion(unknown[0], self.registry.ids, "'ascend-patch list' shows all")
            raise Refusal(f"unknown patch {', '.join(unknown)}: {hint}")

    def tree(self, path: str | Path | None = None, version: str | None = None) -> SourceTree:
        """Sources of the patched package: at `path`, or the installed one; taken for `version` if given.

        Raises:
            SourceError: there is no such package or its version cannot be told.
        """
        from ascend_patch.engine.sources import SourceTree

        return SourceTree.open(path, package=self.package, version=version)

    def installed_tree(self) -> SourceTree | None:
        """Sources of the installed package, or None when it is not installed."""
        from ascend_patch.engine.errors import SourceError

        try:
            tree = self.tree()
            tree.version  # noqa: B018  (fails here rather than in the middle of a table)
        except SourceError:
            return None
        return tree

    def plan(self, tree: SourceTree, selection: Selection | None = None) -> Plan:
        """What would be applied to `tree`."""
        from ascend_patch.engine.planning import make_plan

        wanted = self.settings.selection if selection is None else selection
        return make_plan(self.registry, tree, self.store, wanted, self.standing)

    def stand(self, tree: SourceTree, *, installed: bool) -> Standing:
        """The version by which patches are chosen for `tree`: what the settings say of the installed one, else its own.

        Raises:
            SourceError: the tree's version is unknown.
        """
        from ascend_patch.engine.standing import stand

        return (self.standing if installed else None) or stand(self.registry, tree, self.store)

    @cached_property
    def standing(self) -> Standing | None:
        """The version that the settings say to assume; None when they say nothing.

        Raises:
            OverlayError: the settings cannot be read.
        """
        from ascend_patch.engine.standing import assumed

        return assumed(self.settings.assume_version, self.settings.origins.get("assume_version", ""))


def of(context: typer.Context) -> Workspace:
    """The workspace of a running command: the one given to `main`, else the real one."""
    given: Any = context.find_root().obj
    return given if isinstance(given, Workspace) else Workspace()
