"""The package itself: lazy, complete, and plain once a name was used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from ascend_patch import npu

FOLDER = Path(npu.__file__).parent


def test_importing_it_imports_neither_torch_nor_torch_npu() -> None:
    code = "import sys; from ascend_patch import npu; print([m for m in ('torch', 'torch_npu') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER.parents[1], check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_used_name_is_a_plain_global_and_a_plain_function(device: Any) -> None:
    for name in npu.__all__:
        value = getattr(npu, name)
        assert vars(npu)[name] is value
        plain = getattr(value, "__wrapped__", value)  # functools.cache around what is decided once
        assert isinstance(plain, (FunctionType, type))
        assert plain.__doc__, name


def test_every_public_function_is_offered() -> None:
    offered = {name: module for module, names in npu._MODULES.items() for name in names}
    assert sorted(offered) == sorted(npu.__all__)
    for module in npu._MODULES:
        tree = ast.parse((FOLDER / f"{module}.py").read_text())
        public = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"}
        assert public <= {name for name, home in offered.items() if home == module}


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(npu, "nonsense")  # noqa: B009
    assert set(npu.__all__) <= set(dir(npu))
