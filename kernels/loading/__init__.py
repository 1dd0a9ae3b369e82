"""Finding a kernel's binary, checking, loading and launching it through ACL, on the NPU and on hostcann alike.

Importing this package imports none of that: operators are registered while an engine starts, and their kernels are
looked for at the first launch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ascend_patch.kernels.loading.launching import launch, vector_cores
    from ascend_patch.kernels.loading.search import unavailable

__all__ = ["launch", "unavailable", "vector_cores"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ascend_patch.kernels.loading import launching, search

    value = getattr(search if name == "unavailable" else launching, name)
    globals()[name] = value  # from now on an ordinary global
    return value
