"""Whether a process still means the NPUs that CANN means."""

from __future__ import annotations

import os

_NAME = "ASCEND_RT_VISIBLE_DEVICES"

# CANN reads the list once, at the latest when torch-npu is imported; this module is imported right after it.
_READ_BY_CANN = os.environ.get(_NAME)


def check(index: int) -> None:
    """`index` is the same NPU in the list that CANN has read and in the one that is in force now.

    Ray, for one, tells a worker after the import which NPUs of its node are for this engine.

    Raises:
        RuntimeError: it is another one, which somebody else may be using.
    """
    meant, known = _physical(os.environ.get(_NAME), index), _physical(_READ_BY_CANN, index)
    if meant != known:
        raise RuntimeError(
            f"{_NAME}={os.environ.get(_NAME)} came after CANN had read {_READ_BY_CANN or 'that all NPUs are visible'}:"
            f" device {index} would be NPU {known} and not NPU {meant}. Set the variable before the process starts;"
            " with Ray, before 'ray start' on each node."
        )


def _physical(visible: str | None, index: int) -> int | None:
    """The number of an NPU on its machine, or None where the list does not say it."""
    if visible is None:
        return index
    names = visible.split(",")
    return int(names[index]) if index < len(names) and names[index].strip().isdigit() else None
