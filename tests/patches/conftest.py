from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.npu.conftest import device  # noqa: F401


@pytest.fixture(autouse=True)
def no_launch_waits(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Whatever takes a Triton kernel's place must not wait for the device, as a kernel does not."""
    from ascend_patch.hostcann import trace
    from ascend_patch.patches._triton import Launched

    take = Launched.__getitem__

    def counted(self: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            with trace.recording() as counts:
                take(self, grid)(*arguments, **options)
                waits = counts()["sync"]
            assert not waits, f"{self} waits for the device: {waits}"

        return launch

    monkeypatch.setattr(Launched, "__getitem__", counted)
