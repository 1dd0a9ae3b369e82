"""Frozen values whose classes cost almost nothing to make.

`dataclass` writes and compiles each class's methods: half a millisecond for every class, at every start of every
process of an engine. These methods are written once, for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Value:
    """Annotated names are fields, in order, with those of base classes first; `ClassVar` is left out.

    Made by position or name, compared and hashed by class and fields, never changed. `__post_init__` may check.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[Mapping[str, Any]] = {}
    _names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        own = [name for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar")]
        cls._fields = (*cls._fields, *(name for name in own if name not in cls._fields))
        cls._names = frozenset(cls._fields)
        cls._defaults = {**cls._defaults, **{name: vars(cls)[name] for name in own if name in vars(cls)}}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        given = self._fields[: len(arguments)]
        if len(arguments) > len(given) or not named.keys().isdisjoint(given):
            raise TypeError(f"{type(self).__qualname__}: too many values: {arguments!r}, {named!r}")
        values = vars(self)
        values.update(self._defaults)
        values.update(zip(given, arguments, strict=True))
        values.update(named)
        if values.keys() != self._names:
            wrong = sorted(self._names ^ values.keys())
            raise TypeError(f"{type(self).__qualname__}: missing or unknown: {', '.join(wrong)}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__qualname__} is not to be changed: {name}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def _key(self) -> tuple[Any, ...]:
        return tuple(map(vars(self).__getitem__, self._fields))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if type(other) is type(self) and isinstance(other, Value) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self._key(), strict=True))
        return f"{type(self).__qualname__}({shown})"

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(zip(self._fields, self._key(), strict=True))

    def changed(self, **named: Any) -> Self:
        """A copy with other values for these fields."""
        return type(self)(**{**self.as_dict(), **named})
