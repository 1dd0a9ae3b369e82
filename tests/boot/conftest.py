"""An environment of its own with our bootstrap files in site-packages, and a vLLM that consists of a few lines."""

from __future__ import annotations

import os
import subprocess
import textwrap
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGING = CHECKOUT / "packaging"

FILES = {
    "vllm/__init__.py": "import vllm.core\n",
    "vllm/core.py": "def device():\n    return 'cuda'\n",
    "vllm/engine/__init__.py": "",
    "vllm/engine/arg_utils.py": "import vllm.core\n",
    "torch_npu/__init__.py": "import builtins\nstate = getattr(builtins, 'cann', 'no CANN')\n",
}
DISTRIBUTIONS = ("vllm-0.32.0", "torch_npu-2.13.0")

# In place of the real patches, which need the real vLLM: one that changes what FILES says.
PRELUDE = """
    import sys
    import ascend_patch
    from ascend_patch.engine import registry
    from ascend_patch.engine.vocabulary import Patch, Replace, Variant
    registry.load = lambda: registry.Registry.from_patches([Patch("core.device", "because", (
        Variant(">=0.1,<1", (Replace("vllm.core:device", by="ourpatch:device"),)),), required=True)])
"""


@dataclass
class Site:
    """A virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def packages(self) -> Path:
        return next((self.folder / "lib").glob("python*/site-packages"))

    def run(
        self,
        code: str,
        *flags: str,
        environ: Mapping[str, str] | None = None,
        check: bool = True,
        prelude: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run code in the environment's interpreter with nothing inherited but the path."""
        text = (textwrap.dedent(PRELUDE) if prelude else "") + textwrap.dedent(code)
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder)}
        done = subprocess.run(
            [str(self.python), *flags, "-c", text],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            env=clean | dict(environ or {}),
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def distribution(self, name: str) -> None:
        """Pretend that a distribution is installed."""
        folder = self.packages / f"{name}.dist-info"
        folder.mkdir()
        project, _, version = name.rpartition("-")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """The bootstrap files, a link to our package, the small vLLM, and `packaging`, which the engine needs."""
    folder = tmp_path / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    site = Site(folder)
    for name, text in FILES.items():
        path = site.packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (site.packages / "ourpatch.py").write_text("def device():\n    return 'npu'\n")
    for name in DISTRIBUTIONS:
        site.distribution(name)
    for name in ("ascend_patch.pth", "ascend_patch.start", "_ascend_patch_start.py"):
        (site.packages / name).write_bytes((PACKAGING / name).read_bytes())
    (site.packages / "ascend_patch").symlink_to(CHECKOUT / "ascend_patch")
    import packaging

    (site.packages / "packaging").symlink_to(Path(packaging.__file__).parent)
    return site
