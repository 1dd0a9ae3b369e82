"""A toy package, patches for it and a runner: the command line needs neither vLLM nor torch."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ascend_patch.cli.app import app
from ascend_patch.cli.workspace import Workspace

from .index import Index, serve

UPSTREAM = {
    # Whoever imports it fails: all commands work on sources.
    "gadget/__init__.py": "raise RuntimeError('the package was imported')\n",
    "gadget/core.py": '''
        import os

        DEVICES = {"cpu": "gadget.cpu"}


        def where(index):
            """Open a device."""
            return os.cuda.device(f"cuda:{index}")


        def add(a, b):
            return a + b


        def run(job):
            return job()


        class Base:
            def stop(self):
                return "stop"


        class Child(Base):
            pass
    ''',
}

PATCHES = {
    "gadget_patches/__init__.py": "",
    "gadget_patches/device/__init__.py": "",
    "gadget_patches/device/where.py": """
        from ascend_patch.engine.vocabulary import Patch, Retarget, Variant

        PATCH = Patch(
            id="device.where",
            why="The function opens a CUDA device.",
            no_sign="no source shows it",
            required=True,
            variants=(
                Variant(
                    versions=">=1.0,<2",
                    rewrites=(
                        Retarget("gadget.core:where", names={"cuda": "npu"}, strings={"cuda:": "npu:"}, sites=2),
                    ),
                ),
            ),
        )
    """,
    "gadget_patches/device/registry.py": """
        from ascend_patch.engine.vocabulary import Patch, Register, Variant

        PATCH = Patch(
            id="device.registry",
            why="The registry of devices has no NPU.",
            no_sign="no source shows it",
            variants=(
                Variant(
                    versions=">=1.0,<2",
                    rewrites=(Register("gadget.core:DEVICES", key="npu", value="gadget.npu", literal=True),),
                ),
            ),
        )
    """,
    "gadget_patches/math/__init__.py": "",
    "gadget_patches/math/add.py": '''
        from ascend_patch.engine.vocabulary import Patch, Replace, Variant

        PATCH = Patch(
            id="math.add",
            why="Upstream adds one by one, the device has an operator; this sentence is long enough to be cut.",
            no_sign="no source shows it",
            traced=True,
            requires=("device.registry",),
            upstream="https://example.org/issues/7",
            unnecessary_when="gadget.core.add asks the device.",
            variants=(
                Variant(versions=">=0.5,<1.0", rewrites=(Replace("gadget.core:add", by=":add"),)),
                Variant(versions=">=1.0,<2", rewrites=(Replace("gadget.core:add", by=":add"),)),
            ),
        )


        def add(a, b):
            """Add on the device."""
            return a.add(b)
    ''',
    "gadget_patches/math/run.py": """
        from ascend_patch.engine.vocabulary import Patch, Variant, Wrap

        PATCH = Patch(
            id="math.run",
            why="Jobs are to be counted.",
            no_sign="no source shows it",
            on=False,
            conflicts=("math.add",),
            variants=(Variant(versions=">=1.0,<2", rewrites=(Wrap("gadget.core:run", by=":counting"),)),),
        )


        def counting(original):
            def run(job):
                return original(job)

            return run
    """,
    "gadget_patches/math/old.py": """
        from ascend_patch.engine.vocabulary import Patch, Replace, Variant

        PATCH = Patch(
            id="math.old",
            why="Only an early version needed it.",
            no_sign="no source shows it",
            variants=(Variant(versions=">=0.1,<0.2", rewrites=(Replace("gadget.core:add", by=":add"),)),),
        )


        def add(a, b):
            return a + b
    """,
    "gadget_patches/life/__init__.py": "",
    "gadget_patches/life/stop.py": """
        from ascend_patch.engine.vocabulary import Add, Patch, Variant

        PATCH = Patch(
            id="life.stop",
            why="A child leaves its device open.",
            no_sign="no source shows it",
            variants=(Variant(versions=">=1.0,<2", rewrites=(Add("gadget.core:Child.close", by=":close"),)),),
        )


        def close(self):
            return "closed"
    """,
}

PATCH_THAT_UPSTREAM_OUTGREW = """
    from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Variant

    PATCH = Patch(
        id="life.wake",
        why="A device that sleeps stays asleep.",
        required=True,
        unnecessary_when="gadget.core wakes devices.",
        expires=(Expiry("gadget.core:wake"),),
        variants=(
            Variant(versions=">=1.0,<1.5", rewrites=(Add("gadget.core:Child.wake", by=":wake"),)),
            Variant(versions=">=1.5,<2", unneeded="upstream wakes by itself"),
        ),
    )


    def wake(self):
        return "awake"
"""

ALL_IDS = {"device.where", "device.registry", "math.add", "math.run", "math.old", "life.stop"}


@dataclass
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refused(self) -> str:
        """The one line of a refusal; fails when it was none."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.out == ""
        assert self.err.startswith("ascend-patch: ") and self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.strip()


@dataclass
class Toy:
    """The toy package on disk, and the command line over it."""

    root: Path
    workspace: Workspace

    @property
    def site(self) -> Path:
        return self.root / "site"

    @property
    def project(self) -> Path:
        return self.root / "project"

    def write(self, name: str, text: str) -> Path:
        path = self.site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), "utf-8")
        return path

    def sources(self) -> dict[str, str]:
        """Upstream's files as they are now."""
        return {f"gadget/{path.name}": path.read_text("utf-8") for path in (self.site / "gadget").glob("*.py")}

    def edit(self, name: str, old: str, new: str) -> None:
        """Change upstream or a patch, as an upgrade would."""
        path = self.site / name
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")
        forget("gadget_patches")

    def install(self, version: str) -> None:
        """Give the toy package's distribution another version."""
        for folder in self.site.glob("gadget-*.dist-info"):
            (folder / "METADATA").unlink()
            folder.rmdir()
        self.write(f"gadget-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: gadget\nVersion: {version}\n")

    def fresh(self) -> Workspace:
        """The workspace with nothing remembered."""
        old = self.workspace
        return Workspace(old.patches, old.package, old.directory, old.environ, old.contracts)

    def uses(self, index: Index) -> None:
        """Let commands fetch releases from this index, into a cache folder of this test."""
        more = {"PIP_INDEX_URL": index.url, "XDG_CACHE_HOME": str(self.root / "cache")}
        self.workspace.environ = {**self.workspace.environ, **more}

    def __call__(self, *args: str, environ: dict[str, str] | None = None) -> Result:
        workspace = self.fresh()
        workspace.environ = {**workspace.environ, **(environ or {})}
        done = CliRunner().invoke(app, list(args), obj=workspace, prog_name="ascend-patch")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)


def forget(package: str) -> None:
    """Make the next import of a package read its files again."""
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """Upstream gadget 1.5.0 with contracts, its patches, an empty project and an empty home folder."""
    for name in ("FORCE_COLOR", "NO_COLOR", "VLLM_ASCEND_PATCH_DISABLE", "VLLM_ASCEND_PATCH_ONLY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # patches are edited faster than a .pyc notices
    home = tmp_path / "home"
    project = tmp_path / "project"
    for folder in (home, project, project / ".git"):
        folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    workspace = Workspace(
        patches="gadget_patches",
        package="gadget",
        directory=project,
        environ={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        contracts=tmp_path / "contracts",
    )
    made = Toy(tmp_path, workspace)
    for name, text in {**UPSTREAM, **PATCHES}.items():
        made.write(name, text)
    made.install("1.5.0")
    forget("gadget_patches")
    updated = made("verify", "--update")
    assert updated.code == 0, updated
    yield made
    assert "gadget" not in sys.modules, "a command imported the patched package"
    forget("gadget_patches")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An empty package index for gadget; no proxy stands before it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve("gadget") as made:
        yield made


@pytest.fixture
def run_python() -> Callable[..., Result]:
    """Run Python code in a process of its own."""
    import subprocess

    def run(code: str, *args: str, environ: dict[str, str] | None = None, cwd: Path | None = None) -> Result:
        done = subprocess.run(
            [sys.executable, "-c", code, *args], env=environ, cwd=cwd, capture_output=True, text=True, timeout=120
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run
