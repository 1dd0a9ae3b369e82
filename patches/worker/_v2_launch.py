"""What stands where vLLM had a Triton kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


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
