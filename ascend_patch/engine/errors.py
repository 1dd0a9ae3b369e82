"""Every error the overlay raises on purpose. Each message is one line: what is wrong, then what to do."""

from __future__ import annotations


class OverlayError(RuntimeError):
    """Base of everything the overlay raises on purpose."""


class RequiredPatchError(OverlayError):
    """The patched package must not start: a required patch is not in force (or, in strict mode, any patch drifted)."""


class SettingsError(OverlayError):
    """The user's settings are malformed, name an unknown patch, or contradict each other."""


class SourceError(OverlayError):
    """A source tree cannot be found, read, or told its version."""


class ContractError(OverlayError):
    """A contract file cannot be read."""


class RewriteError(OverlayError):
    """A rewrite cannot be made: the place in memory is not what the declaration says. Nothing was changed."""
