"""Where the overlay keeps what it can make or fetch again: one folder outside every checkout and installation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def root(environ: Mapping[str, str] = os.environ) -> Path:
    """``$XDG_CACHE_HOME/ascend_patch``, else the same below ``~/.cache``."""
    home = environ.get("HOME") or Path.home()
    return Path(environ.get("XDG_CACHE_HOME") or Path(home, ".cache"), "ascend_patch")
