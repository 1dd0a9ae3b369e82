"""Names that stand in for torchvision where it is not installed.

transformers' module of Qwen's image processor imports torchvision, and vLLM's models import that module; the wheel of
the package index wants CUDA and cannot be imported beside torch for the CPU. Pictures go through the processors that
work with PIL, so that of torchvision only what brings a video's colours to size is called; anything else says so.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_MODES = "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS"
_FUNCTIONS = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def function(*args, **kwargs):
        raise NotImplementedError(f"torchvision's {name}: only its name is here")

    return function
"""
_NORMALIZE = """
import torch


def normalize(inpt, mean, std, inplace=False):
    mean, std = (torch.as_tensor(value, dtype=inpt.dtype).view(-1, 1, 1) for value in (mean, std))
    return (inpt - mean) / std
"""
_TRANSFORMS = f'from enum import Enum\n\nInterpolationMode = Enum("InterpolationMode", "{_MODES}")\n'
_FILES = {
    "torchvision/__init__.py": '__version__ = "0.0.0"\n',
    "torchvision/io.py": _FUNCTIONS,
    "torchvision/transforms/__init__.py": _TRANSFORMS,
    "torchvision/transforms/functional.py": f"from . import InterpolationMode\n{_FUNCTIONS}",
    "torchvision/transforms/v2/__init__.py": "from .. import InterpolationMode\n",
    "torchvision/transforms/v2/functional.py": f"from .. import InterpolationMode\n{_NORMALIZE}{_FUNCTIONS}",
    "torchvision-0.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.0.0\n",
}


def python_path(folder: Path) -> str:
    """What `PYTHONPATH` has to be for processes that import torchvision: empty where it is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return ""
    for name, content in _FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return str(folder)
