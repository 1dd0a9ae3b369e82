"""The tests with every vLLM that is tested end to end: `make matrix`; `nox -s "vllm(0.33.0)"` for one of them.

What follows `--` goes to pytest. The environments are those of scripts/setup.py, not nox's: they take minutes and
gigabytes, so they are kept in the cache and shared by all checkouts.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent / "scripts"))
import stacks

nox.options.default_venv_backend = "none"


@nox.session
@nox.parametrize("version", [nox.param(version, id=version) for version in stacks.tested_versions()])
def vllm(session: nox.Session, version: str) -> None:
    """`make test VLLM=version`."""
    arguments = f"PYTEST_ARGS={shlex.join(session.posargs)}"
    session.run("make", "--no-print-directory", "test", f"VLLM={version}", arguments, external=True)
