"""The list of visible NPUs that changes after CANN has read it."""

from __future__ import annotations

import pytest

from ascend_patch.patches.platform import _visible_devices

NAME = "ASCEND_RT_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("read", "now", "index"),
    [(None, None, 3), (None, "0,1", 1), ("4,5", "4,5", 1), ("4,5,6", "4,5", 0), ("0,1", None, 1)],
)
def test_the_same_npu_is_meant(monkeypatch: pytest.MonkeyPatch, read: str | None, now: str | None, index: int) -> None:
    _set(monkeypatch, read, now)
    _visible_devices.check(index)


@pytest.mark.parametrize(
    ("read", "now", "index", "known", "meant"),
    [(None, "4,5", 0, 0, 4), ("4,5", "5,4", 1, 5, 4), ("4,5", None, 0, 4, 0), ("1", "0,1", 1, None, 1)],
)
def test_another_npu_is_refused(
    monkeypatch: pytest.MonkeyPatch, read: str | None, now: str | None, index: int, known: int | None, meant: int
) -> None:
    _set(monkeypatch, read, now)
    with pytest.raises(RuntimeError, match=f"device {index} would be NPU {known} and not NPU {meant}.*ray start"):
        _visible_devices.check(index)


def _set(monkeypatch: pytest.MonkeyPatch, read: str | None, now: str | None) -> None:
    monkeypatch.setattr(_visible_devices, "_READ_BY_CANN", read)
    if now is None:
        monkeypatch.delenv(NAME, raising=False)
    else:
        monkeypatch.setenv(NAME, now)
