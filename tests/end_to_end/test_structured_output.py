"""Structured output: the answer obeys the grammar, whatever the model would have liked to say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.shows("structured output")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def smollm(engine: Callable[..., Any], demo_model_folder: Path) -> Any:
    return engine(demo_model_folder, dtype="bfloat16", max_model_len=1024)


def test_choice(smollm: Any) -> None:
    params = {"temperature": 0, "max_tokens": 8, "structured_outputs": {"choice": ["violet", "Neptune"]}}
    planet, colour = smollm.generate(["The farthest planet is", "Lavender has the colour"], params)
    assert planet["text"] == "Neptune"
    assert colour["text"] == "violet"


def test_json_schema_with_sampling(smollm: Any) -> None:
    params = {"temperature": 0.8, "seed": 1, "max_tokens": 60, "structured_outputs": {"json": SCHEMA}}
    (answer,) = smollm.generate(["Describe a person in JSON."], params, chat=True)
    person = json.loads(answer["text"])
    assert set(person) == {"name", "age"}
    assert isinstance(person["name"], str)
    assert len(person["name"]) <= 12
    assert isinstance(person["age"], int)
    assert 0 <= person["age"] <= 99


def test_regular_expression_next_to_free_text(smollm: Any) -> None:
    """A constrained and a free request in one batch."""
    pattern = r"\d{4}-\d{2}-\d{2}"
    free = {"temperature": 0, "max_tokens": 12}
    bound = {**free, "structured_outputs": {"regex": pattern}}
    dated, plain = smollm.generate(["The date of the letter is ", "The capital of France is"], [bound, free])
    assert re.fullmatch(pattern, dated["text"])
    assert "Paris" in plain["text"]
