"""Engines that come and go, and weights that change under a running one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Engine
from tests.end_to_end.worker import Worker
from tests.models.families import prompts

pytestmark = [pytest.mark.engine_process, pytest.mark.shows("engines that come and go, new weights")]
GREEDY = {"temperature": 0, "max_tokens": 4, "ignore_eos": True, "detokenize": False}
MIB = 1 << 20


def test_three_engines_one_after_the_other_leave_nothing(tmp_path: Path, tiny_llama: str) -> None:
    process = Worker(tmp_path / "worker.log")
    left = []
    answers = []
    try:
        for life in range(3):
            process.call("load", name=f"life {life}", model=tiny_llama, dtype="float32", skip_tokenizer_init=True)
            found = process.call("generate", name=f"life {life}", prompts=prompts(), params=GREEDY)
            answers.append([answer["token_ids"] for answer in found])
            process.call("unload", name=f"life {life}")
            left.append(process.call("memory_in_use"))
    finally:
        code = process.close()
    assert answers[0] == answers[1] == answers[2]
    for life in left[1:]:
        assert life["tensors"] <= left[0]["tensors"]
        assert life["device"] <= left[0]["device"]
    # The first life also leaves what is loaded once: modules, thread pools.
    assert left[2]["resident"] - left[1]["resident"] < 24 * MIB
    assert code == 0, process.log_tail()
    assert process.complaints() == []


def test_new_weights_for_a_running_engine(
    tiny_engine: Callable[..., Engine], worker: Worker, tiny_llama: str, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    worker.call("write_other_weights", folder=tiny_llama, to=other)
    running = tiny_engine(max_num_seqs=5)
    expected = {
        folder: [
            answer["token_ids"]
            for answer in worker.call("reference_greedy", folder=folder, dtype="float32", prompts=prompts(), count=4)
        ]
        for folder in (tiny_llama, other)
    }
    assert expected[tiny_llama] != expected[other]
    for folder in (tiny_llama, other, tiny_llama):
        worker.call("replace_weights", name=running.name, folder=folder)
        assert [answer["token_ids"] for answer in running.generate(prompts(), GREEDY)] == expected[folder]
