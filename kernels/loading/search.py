"""Where a kernel's binary comes from: explicit path, package, just-in-time cache, and otherwise why there is none."""

from __future__ import annotations

from functools import cache

from ascend_patch.kernels.declaration import Kernel


@cache
def unavailable(kernel: Kernel) -> str | None:
    """Why `kernel` cannot be launched in this process, with the remedy; None if it can. Loads it the first time."""
    return f"{kernel.name} has no binary here"
