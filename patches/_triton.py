"""What stands where vLLM expects Triton. Neither torch nor vLLM is imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


class Launched:
    """``kernel[grid](...)`` becomes ``function(grid, ...)``.

    vLLM's own `KernelOverride` drops the grid, which is the only place that tells some of the kernels how many rows
    there are; and its registry would leave no trace in contracts and status.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self.__name__ = self.__qualname__ = function.__name__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._function, grid)

    def __repr__(self) -> str:
        return f"<launched {self.__module__}.{self.__qualname__}>"


def next_power_of_2(self: Any, n: int) -> int:
    """``triton.next_power_of_2``, which vLLM's placeholder for Triton lacks; `n` is positive."""
    return 1 << (n - 1).bit_length()
