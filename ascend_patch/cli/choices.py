"""Values the shell completes."""

from __future__ import annotations


def patch_ids(incomplete: str) -> list[tuple[str, str]]:
    """Patch ids that begin with what has been typed, each with its reason as help."""
    from ascend_patch.cli.errors import Refusal
    from ascend_patch.cli.workspace import Workspace

    try:
        registry = Workspace().registry
    except Refusal:  # the command itself will say what is wrong; a completion stays silent
        return []
    return [(patch.id, patch.why) for patch in registry if patch.id.startswith(incomplete)]


def areas(incomplete: str) -> list[str]:
    """Areas that begin with what has been typed."""
    return sorted({patch_id.partition(".")[0] for patch_id, _ in patch_ids(incomplete)})
