"""Scheduling must not change answers: chunks, mixed batches, block boundaries, cached prefixes, async scheduling."""

from __future__ import annotations

from typing import Any

import pytest

from tests.end_to_end.worker import Worker
from tests.models.families import VOCABULARY, prompts

pytestmark = pytest.mark.shows("chunked prefill, prefix caching, preemption")

BLOCK = 128


def greedy(count: int) -> dict[str, Any]:
    return {"temperature": 0, "max_tokens": count, "ignore_eos": True, "detokenize": False}


def long_prompt(length: int) -> list[int]:
    return [2 + (7 * index + index * index) % (VOCABULARY - 2) for index in range(length)]


def expected(worker: Worker, folder: str, given: list[list[int]], count: int) -> list[list[int]]:
    answers = worker.call("reference_greedy", folder=folder, dtype="float32", prompts=given, count=count)
    return [answer["token_ids"] for answer in answers]


def tokens(results: list[dict[str, Any]]) -> list[list[int]]:
    return [result["token_ids"] for result in results]


def test_blocks_have_128_tokens(tiny_engine: Any) -> None:
    assert tiny_engine().facts["block_size"] == BLOCK


@pytest.mark.parametrize("blocks", [1, 2])
def test_block_boundaries(blocks: int, tiny_engine: Any, tiny_llama: str, worker: Worker) -> None:
    """Prompts that end just before, at and after a block's end, then cross it while decoding."""
    given = [long_prompt(blocks * BLOCK + offset) for offset in (-3, -1, 0, 1)]
    got = tokens(tiny_engine(enable_prefix_caching=False).generate(given, greedy(6)))
    assert got == expected(worker, tiny_llama, given, 6)


@pytest.mark.parametrize("budget", [32, 100])
def test_chunked_prefill(budget: int, tiny_engine: Any, tiny_llama: str, worker: Worker) -> None:
    """Fewer tokens per step than the prompts have, and not a divisor of their lengths."""
    small = tiny_engine(max_num_batched_tokens=budget, enable_chunked_prefill=True, enable_prefix_caching=False)
    assert small.facts["max_num_batched_tokens"] == budget
    assert tokens(small.generate(prompts(), greedy(6))) == expected(worker, tiny_llama, prompts(), 6)


def test_mixed_batches(tiny_engine: Any, tiny_llama: str, worker: Worker) -> None:
    """More requests than places, of different lengths: finished ones make room while others decode."""
    given = [long_prompt(length) for length in (3, 140, 17, 64, 1, 90, 33, 129, 7, 50)]
    counts = [2, 9, 5, 3, 9, 1, 7, 4, 8, 6]
    small = tiny_engine(max_num_seqs=3, max_num_batched_tokens=96, enable_prefix_caching=False)
    got = tokens(small.generate(given, [greedy(count) for count in counts]))
    wanted = expected(worker, tiny_llama, given, max(counts))
    assert got == [answer[:count] for answer, count in zip(wanted, counts, strict=True)]


def test_cached_prefixes(tiny_engine: Any, tiny_llama: str, worker: Worker) -> None:
    cached = tiny_engine(enable_prefix_caching=True)
    start = long_prompt(2 * BLOCK + 20)[::-1]
    branch = start[: BLOCK + 5] + [9, 8, 7]
    (first,) = cached.generate([start], greedy(4))
    (again,) = cached.generate([start], greedy(4))
    (other,) = cached.generate([branch], greedy(4))
    assert [result["cached_tokens"] for result in (first, again, other)] == [0, 2 * BLOCK, BLOCK]
    assert tokens([first, again, other]) == expected(worker, tiny_llama, [start, start, branch], 4)


def test_preempted_requests_are_resumed(tiny_engine: Any, tiny_llama: str, worker: Worker) -> None:
    """Three requests that need two blocks each, and three blocks to use (one more is vLLM's own)."""
    tight = tiny_engine(num_gpu_blocks_override=4, max_model_len=256, enable_prefix_caching=False)
    given = [long_prompt(length) for length in (124, 122, 120)]
    assert tokens(tight.generate(given, greedy(12))) == expected(worker, tiny_llama, given, 12)


@pytest.mark.parametrize("switch", [True, False], ids=["async", "sync"])
def test_async_scheduling(switch: bool, tiny_engine: Any, tiny_llama: str, worker: Worker) -> None:
    scheduled = tiny_engine(async_scheduling=switch)
    assert scheduled.facts["async_scheduling"] is switch
    assert tokens(scheduled.generate(prompts(), greedy(8))) == expected(worker, tiny_llama, prompts(), 8)
