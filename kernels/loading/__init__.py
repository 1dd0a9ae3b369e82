"""Finding a kernel's binary, checking, loading and launching it through ACL, on the NPU and on hostcann alike."""

from __future__ import annotations

from ascend_patch.kernels.loading.launching import launch, vector_cores
from ascend_patch.kernels.loading.search import unavailable

__all__ = ["launch", "unavailable", "vector_cores"]
