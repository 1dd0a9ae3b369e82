"""Frozen values: what `dataclass(frozen=True)` promises, without what it costs."""

from __future__ import annotations

import pickle
from functools import cached_property
from typing import ClassVar

import pytest

from ascend_patch.value import Value


class Point(Value):
    kind: ClassVar[str] = "point"
    x: int
    y: int = 2

    @cached_property
    def sum(self) -> int:
        return self.x + self.y


class Named(Point):
    kind: ClassVar[str] = "named"
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("nameless")


def test_fields_come_by_position_or_name_with_those_of_the_base_first() -> None:
    assert (Point(1).x, Point(1).y, Point(y=5, x=4).as_dict()) == (1, 2, {"x": 4, "y": 5})
    assert Named(1, 2, "a").as_dict() == {"x": 1, "y": 2, "name": "a"}
    assert repr(Named(1, name="a")) == "Named(x=1, y=2, name='a')"
    with pytest.raises(ValueError, match="nameless"):
        Named(1)


def test_wrong_arguments_are_refused() -> None:
    for call in (
        lambda: Point(),  # type: ignore[call-arg]
        lambda: Point(1, 2, 3),  # type: ignore[call-arg]
        lambda: Point(1, x=1),  # type: ignore[misc]
        lambda: Point(1, z=1),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError, match="Point"):
            call()


def test_they_are_compared_by_class_and_fields_alone() -> None:
    point = Point(1)
    assert point.sum == 3, "a cached property is kept beside the fields"
    assert point == Point(1, 2) and hash(point) == hash(Point(1, 2))
    assert point != Point(1, 3)
    assert point != Named(1, 2, "a")
    assert point != (1, 2)


def test_they_do_not_change() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="x"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="z"):
        point.z = 2  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="x"):
        del point.x
    other = point.changed(y=7)
    assert (point.y, other) == (2, Point(1, 7))


def test_they_pickle() -> None:
    point = Named(1, 2, "a")
    assert pickle.loads(pickle.dumps(point)) == point
