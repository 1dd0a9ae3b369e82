"""What `doctor` finds, and where it looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ascend_patch import environment
from ascend_patch.cli.errors import Refusal
from ascend_patch.cli.workspace import Workspace
from ascend_patch.engine import installed
from ascend_patch.engine.errors import OverlayError

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        check: what was looked at, a stable short name.
        level: ``ok``; ``warning``: it works, but not as well or not for everything; ``error``: it does not work.
        message: what was found.
        remedy: what to do about it; "" only when the level is ``ok``.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return {"check": self.check, "level": self.level, "message": self.message, "remedy": self.remedy}


@dataclass
class Machine:
    """The machine as `doctor` sees it; tests give it fake folders.

    Attributes:
        workspace: patches and settings.
        environ: environment variables of the user's shell.
        path: import path on which distributions are looked for.
        root: what stands for ``/``.
        interpreter: Python whose start-up is probed.
    """

    workspace: Workspace = field(default_factory=Workspace)
    environ: Mapping[str, str] = field(default_factory=environment.inherited_environ)
    path: Sequence[str] = field(default_factory=lambda: list(sys.path))
    root: str = "/"
    interpreter: str = sys.executable

    @property
    def dev(self) -> str:
        """Folder of the device nodes."""
        return self.root.rstrip("/") + "/dev"

    def version(self, name: str) -> str | None:
        """Installed version of a distribution."""
        return installed.distribution_version(name, self.path)

    def copies(self, name: str) -> Iterator[installed.Distribution]:
        """Every installed copy of a distribution, the one that an import sees first."""
        return installed.copies(name, self.path)

    @cached_property
    def device(self) -> environment.DeviceDecision:
        """Device the overlay would choose here (None: it stays inactive), and why."""
        try:
            setting = self.workspace.settings.device
        except (Refusal, OverlayError):  # its own check reports broken settings
            setting = "auto"
        return environment.decide_device(setting, self.dev)


def release(version: str) -> str:
    """``2.13.0.post3+cpu`` to ``2.13.0``: what torch and torch-npu must have in common."""
    kept = []
    for part in version.partition("+")[0].split("."):
        if not part.isdigit():
            break
        kept.append(part)
    return ".".join(kept)
