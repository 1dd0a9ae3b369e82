"""A toy package to overlay, written to disk for each test: no vLLM, no torch."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from ascend_patch.engine import overlay as overlay_module
from ascend_patch.engine.contract_building import build
from ascend_patch.engine.contracts import ContractSet, ContractStore
from ascend_patch.engine.overlay import Overlay, Package
from ascend_patch.engine.plan import Plan, Selection
from ascend_patch.engine.planning import make_plan
from ascend_patch.engine.registry import Registry
from ascend_patch.engine.sources import SourceTree
from ascend_patch.engine.vocabulary import Patch

CHECKOUT = Path(__file__).resolve().parents[2]

UPSTREAM = {
    "toy/__init__.py": "",
    "toy/core.py": '''
        import functools
        import toy.devices

        def greet(name, punctuation="!"):
            """Say hello."""
            return "hello " + name + punctuation

        def where():
            def inner():
                return toy.devices.cuda.name
            return toy.devices.cuda.name + " " + inner() + " " + "cuda:"

        @functools.lru_cache(maxsize=None)
        def cached(x):
            return ("cuda", x)

        class Engine:
            def start(self, where="cuda"):
                return "start " + where

            def stop(self):
                return "stop"

            @staticmethod
            def double(x):
                return 2 * x

            @classmethod
            def make(cls, name="engine"):
                return cls.__name__ + name

            @property
            def label(self):
                return "cuda"

            @functools.cached_property
            def costly(self):
                return "costly"

        class Small(Engine):
            def stop(self):
                return "small " + super().stop()

        REGISTRY = {"known": "upstream"}
        LIMIT = 8
    ''',
    "toy/devices.py": """
        class cuda:
            name = "cuda"

        class npu:
            name = "npu"
    """,
    "toy/consumer.py": """
        from toy.core import greet
        from toy.core import Engine as Motor

        def call(name):
            return greet(name)
    """,
    "toy/other.py": """
        def fine():
            return "fine"
    """,
    "toy/gate.py": """
        import toy.consumer
        started = True
    """,
}

FUNCTIONS = '''
    """Functions that the patches of the tests install."""

    def greet(name, punctuation="!"):
        return "patched " + name + punctuation

    def louder(original):
        def greet(name, punctuation="!"):
            return original(name, punctuation).upper()
        return greet

    def variadic(original):
        def anything(*args, **kwargs):
            return original(*args, **kwargs) + " (wrapped)"
        return anything

    def start(self, where="npu"):
        return "patched " + where

    def stop(self):
        return "patched stop"

    def double(x):
        return 20 * x

    def make(cls, name="patched"):
        return "patched " + cls.__name__ + name

    def label(self):
        return "patched label"

    def extra():
        return "extra"

    def broken(original):
        raise ValueError("this factory is broken")

    class Thing:
        pass

    LIMIT = 16
    VALUE = object()
'''


@dataclass
class Toy:
    """The toy package's files, and shortcuts from there to an overlay."""

    folder: Path
    version: str = "1.0"
    files: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> None:
        """(Over)write a file below the folder that is on the path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), "utf-8")
        self.files[name] = textwrap.dedent(text)
        importlib.invalidate_caches()

    def edit(self, name: str, old: str, new: str) -> None:
        """Change a file as an upstream release would."""
        assert old in self.files[name], f"{old!r} is not in {name}"
        self.write(name, self.files[name].replace(old, new))

    @property
    def tree(self) -> SourceTree:
        return SourceTree.open(self.folder, package="toy", version=self.version)

    def contracts(self, registry: Registry) -> ContractSet:
        """The contracts of what is on disk now."""
        return build(self.tree, registry)

    def plan(
        self, registry: Registry, selection: Selection | None = None, contracts: ContractSet | None = None
    ) -> Plan:
        return make_plan(registry, self.tree, ContractStore.of([contracts or self.contracts(registry)]), selection)

    def overlay(
        self,
        *patches: Patch,
        selection: Selection | None = None,
        contracts: ContractSet | None = None,
        gates: tuple[str, ...] = ("toy.gate",),
    ) -> Overlay:
        """An overlay over the tree on disk, not installed yet; the contracts are of that tree unless given."""
        registry = Registry.from_patches(patch.changed(module=patch.module or "toyfunctions") for patch in patches)
        return Overlay(Package("toy", start_gates=gates), self.plan(registry, selection, contracts), registry)

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(name)

    def run(self, code: str, *arguments: str, environ: Mapping[str, str] | None = None, ok: bool = True) -> str:
        """Run a script in a new interpreter that sees the toy package and ours; returns its output."""
        script = self.folder / "script.py"
        script.write_text(textwrap.dedent(code), "utf-8")
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{self.folder}:{CHECKOUT}", "VLLM_ASCEND_AUTOPATCH": "0"}
            | dict(environ or {}),
        )
        assert not ok or done.returncode == 0, done.stderr
        return done.stdout if ok else done.stderr


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """The toy package on ``sys.path``; imports and hooks are taken back after the test."""
    toy = Toy(tmp_path / "site")
    for name, text in UPSTREAM.items():
        toy.write(name, text)
    toy.write("toyfunctions.py", FUNCTIONS)
    monkeypatch.syspath_prepend(toy.folder)
    meta_path = list(sys.meta_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change within one second
    yield toy
    overlay_module.set_current(None)
    sys.meta_path[:] = meta_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("toy", "toyfunctions", "toypatches")]:
        del sys.modules[name]
