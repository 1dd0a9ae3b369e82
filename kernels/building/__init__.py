"""Building kernels: for this machine's CPU with its C++ compiler, for an NPU with CANN's."""

from __future__ import annotations


class BuildError(RuntimeError):
    """A kernel cannot be built here; the message says why and what to do."""
