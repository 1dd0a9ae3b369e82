"""When the package is imported: which device, when to refuse, and where the refusal is raised."""

from __future__ import annotations

import re
import shutil
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Site

ON = {"VLLM_ASCEND_AUTOPATCH": "1"}
HOST = ON | {"ASCEND_PATCH_DEVICE": "host"}
IMPORT = "import vllm; print(vllm.core.device())"
START = "\nimport vllm.engine.arg_utils; print('started')"


def test_without_an_npu_it_stays_inactive_and_says_so_once(site: Site) -> None:
    done = site.run(
        "import subprocess, sys\nimport vllm; print(vllm.core.device())" + START + "\n"
        "subprocess.run([sys.executable, '-c', 'import vllm; print(vllm.core.device())'])",
        environ=ON,
    )
    assert sorted(done.stdout.split()) == ["cuda", "cuda", "started"]
    (line,) = done.stderr.splitlines()
    assert "inactive" in line and "ASCEND_PATCH_DEVICE=host" in line


def test_on_the_host_it_patches(site: Site) -> None:
    done = site.run(IMPORT + START + "\nprint(ascend_patch.status()[0].state.value)", environ=HOST, prelude=True)
    assert done.stdout.split() == ["npu", "started", "applied"]


def test_switched_off_it_does_nothing_at_all(site: Site) -> None:
    done = site.run(IMPORT + START, environ=HOST | {"VLLM_ASCEND_AUTOPATCH": "0"}, prelude=True)
    assert (done.stdout.split(), done.stderr) == (["cuda", "started"], "")


REFUSALS = {
    "rival": ({}, "vllm-ascend 0.13.0 is installed.*pip uninstall vllm-ascend"),
    "no npu": ({"ASCEND_PATCH_DEVICE": "npu"}, "ASCEND_PATCH_DEVICE=npu, but there is no Ascend NPU"),
    "device": ({"ASCEND_PATCH_DEVICE": "gpu"}, "there is no device 'gpu': choose one of auto, npu, host"),
    "disabled": (
        {"VLLM_ASCEND_PATCH_DISABLE": "core.device"},
        r"core\.device is disabled.*ascend-patch enable core\.device",
    ),
    "unknown": ({"VLLM_ASCEND_PATCH_DISABLE": "core.devise"}, r"no patch 'core\.devise': did you mean core\.device"),
    "drifted": ({}, r"core\.device drifted on vllm 0\.32\.0.*no device.*ascend-patch diff core\.device"),
    "no torch-npu": ({}, "needs torch-npu, which is not installed"),
    "bad file": ({}, r"ascend_patch\.toml:1: not valid TOML"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_stop_an_engine_and_nothing_else(site: Site, name: str) -> None:
    environ, message = REFUSALS[name]
    if name == "rival":
        site.distribution("vllm_ascend-0.13.0")
    elif name == "drifted":
        (site.packages / "vllm/core.py").write_text("def renamed():\n    return 'cuda'\n")
    elif name == "no torch-npu":
        shutil.rmtree(site.packages / "torch_npu-2.13.0.dist-info")
    elif name == "bad file":
        (site.folder / "ascend_patch.toml").write_text("strict = ,")
    site.run("import vllm, vllm.core, torch_npu", environ=HOST | environ | {"VLLM_ASCEND_AUTOPATCH": "0"})
    stub = STUB if name not in ("no npu", "device", "bad file") else ""
    looking = site.run(
        stub + "import vllm, vllm.core, torch_npu; print('looked')", environ=HOST | environ, prelude=True
    )
    assert looking.stdout.split() == ["looked"]
    starting = site.run("import vllm" + START, environ=HOST | environ, prelude=True, check=False)
    assert starting.returncode == 1 and "started" not in starting.stdout
    last = starting.stderr.strip().splitlines()[-1]
    assert re.search(message, last), last


STUB = """
import builtins, types
calls = []
def load():
    calls.append("load"); builtins.cann = "hostcann"
stub = types.ModuleType("ascend_patch.hostcann")
stub.load, stub.attach = load, lambda: calls.append("attach " + sys.modules["torch_npu"].state)
sys.modules["ascend_patch.hostcann"] = ascend_patch.hostcann = stub
"""


def test_the_host_cann_is_loaded_before_and_attached_after_torch_npu(site: Site) -> None:
    for first in ("import torch_npu, vllm", "import vllm, torch_npu"):
        out = site.run(STUB + f"{first}\nprint(calls)", environ=HOST, prelude=True).stdout
        assert out.strip() == "['load', 'attach hostcann']"


def test_torch_npu_is_left_alone_otherwise(site: Site) -> None:
    done = site.run(STUB + "import torch_npu; print(calls, torch_npu.state)", environ=ON, prelude=True)
    assert done.stdout.strip() == "[] no CANN" and done.stderr == ""


def test_an_error_of_the_host_cann_reaches_the_user(site: Site) -> None:
    code = STUB + "def load(): raise RuntimeError('no compiler: install g++')\nstub.load = load\nimport torch_npu"
    done = site.run(code, environ=HOST, prelude=True, check=False)
    assert done.stderr.strip().endswith("RuntimeError: no compiler: install g++")


def test_looking_for_the_package_does_not_activate(site: Site) -> None:
    code = """
        import importlib.util
        spec = importlib.util.find_spec("vllm")
        assert spec.loader.get_source("vllm") and spec.loader.is_package("vllm")
        print(ascend_patch.overlay(), "vllm" in sys.modules)
        import vllm
        print(vllm.core.device(), vllm.__spec__.loader is vllm.__loader__, type(vllm.__loader__).__name__)
    """
    out = site.run(code, environ=HOST, prelude=True).stdout
    assert out.split() == ["None", "False", "npu", "True", "SourceFileLoader"]


@pytest.mark.parametrize("way", ["import", "plugin"])
def test_coming_late_is_made_up_for(site: Site, way: str) -> None:
    (site.packages / "vllm/consumer.py").write_text("from vllm.core import device\n")
    late = PLUGIN if way == "plugin" else "import ascend_patch\n"
    code = (
        "import os, sys, vllm.consumer\n"
        "sys.modules.pop('ascend_patch', None)\n"
        "from ascend_patch_late import *\n" + late + "print(vllm.consumer.device())\n"
        "(status,) = ascend_patch.status()\nprint(status.state.value, status.late, status.early_importers)"
    )
    prelude = dedent("""
        import os
        os.environ["VLLM_ASCEND_AUTOPATCH"] = "0"
        from ascend_patch.engine import registry
        from ascend_patch.engine.vocabulary import Patch, Replace, Variant
        registry.load = lambda: registry.Registry.from_patches([Patch("core.device", "because", (
            Variant(">=0.1,<1", (Replace("vllm.core:device", by="ourpatch:device"),)),), required=True)])
        import sys
        del sys.modules["ascend_patch"]
        os.environ["VLLM_ASCEND_AUTOPATCH"] = "1"
    """)
    (site.packages / "ascend_patch_late.py").write_text(prelude)
    out = site.run(code, environ={"ASCEND_PATCH_DEVICE": "host"}).stdout.splitlines()
    assert out == ["npu", "applied ('vllm.core',) ('vllm.consumer:device',)"] or out[1].startswith(
        "applied ('vllm.core',)"
    )
    assert "vllm.consumer:device" in out[1]


PLUGIN = """
from ascend_patch import activation
import ascend_patch
activation.plugin()
activation.plugin()
"""


def test_a_plugin_nobody_asked_for_is_silent_without_an_npu(site: Site) -> None:
    done = site.run("import vllm\nfrom ascend_patch.activation import plugin\nplugin()\nprint(vllm.core.device())")
    assert (done.stdout.strip(), done.stderr) == ("cuda", "")


def test_undo_from_the_public_api(site: Site) -> None:
    code = IMPORT + "\nprint(ascend_patch.undo().undone, vllm.core.device(), ascend_patch.status()[0].state.value)"
    assert site.run(code, environ=HOST, prelude=True).stdout.split() == ["npu", "('core.device',)", "cuda", "disabled"]
    done = site.run("import ascend_patch; ascend_patch.undo()", check=False)
    assert "the overlay is not active in this process" in done.stderr.splitlines()[-1]


def test_old_runs_are_removed_by_a_new_one(site: Site) -> None:
    base = site.folder / "ascend_patch"
    for number in range(30):
        (base / f"20200101T0000{number:02}-1").mkdir(parents=True)
    site.run(IMPORT, environ=HOST, prelude=True)
    assert len(list(base.iterdir())) == 10


def test_every_process_writes_a_record(site: Site) -> None:
    code = """
        import subprocess, multiprocessing, os
        import vllm.engine.arg_utils
        def work(): import vllm.core
        process = multiprocessing.get_context("fork").Process(target=work, name="EngineCore_DP0")
        process.start(); process.join()
        from ascend_patch.engine import records
        run = records.latest()
        print([record.role for record in run.records], run.agreement().agrees, run.records[0].alive)
    """
    out = site.run(code, environ=HOST, prelude=True).stdout
    assert out.strip() == "['main', 'EngineCore_DP0'] True True"
