from __future__ import annotations

from tests.npu.conftest import device  # noqa: F401
