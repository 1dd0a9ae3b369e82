"""Stock vLLM on Ascend NPUs. Importing this package activates the overlay in this process and its children.

``VLLM_ASCEND_AUTOPATCH=0`` in the environment keeps it off.
"""

import os as _os

VARIABLE = "VLLM_ASCEND_AUTOPATCH"

# Whether somebody said yes or no; a process that we reach only as a vLLM plugin was not asked for.
requested = VARIABLE in _os.environ

# True when this process is to be patched; decided once, here.
active = _os.environ.setdefault(VARIABLE, "1").strip().lower() not in ("", "0", "false", "no", "off")

if active:
    from ascend_patch import _boot

    _boot.install()


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("ascend-patch")
    if name in ("status", "overlay", "undo"):
        from ascend_patch import activation

        return getattr(activation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "__version__", "overlay", "status", "undo"])
