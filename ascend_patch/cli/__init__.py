"""The command line ``ascend-patch``: one module per command."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit. The entry point of ``ascend-patch``."""
    from ascend_patch.cli.app import app

    app(prog_name="ascend-patch")
