"""Model runner V2 on the NPU: the tests of V1's answers once more, and what is refused.

The expected values are those of the other modules: transformers, plain Python on raw logits, vLLM's own CPU build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Engine, engines, make_llama, skip_without
from tests.end_to_end.test_batching import (  # noqa: F401
    test_async_scheduling,
    test_block_boundaries,
    test_cached_prefixes,
    test_chunked_prefill,
    test_mixed_batches,
    test_preempted_requests_are_resumed,
)
from tests.end_to_end.test_sampling import (  # noqa: F401
    processed,
    raw,
    test_distribution_is_exact,
    test_frequencies_follow_the_distribution,
    test_logit_bias_and_banned_tokens,
    test_one_batch_with_all_settings_at_once,
    test_seed_decides_whatever_the_batch,
    test_several_answers_per_prompt,
)
from tests.end_to_end.test_smollm2 import (  # noqa: F401
    answers,
    test_float32_logprobs_are_equal,
    test_float32_tokens_are_equal,
)
from tests.end_to_end.test_structured_output import smollm, test_choice  # noqa: F401
from tests.end_to_end.worker import Worker, WorkerError
from tests.models.families import prompts

pytestmark = [pytest.mark.engine_process, pytest.mark.shows("model runner V2 (off by default)")]
PATCH = "worker.model_runner_v2"
GREEDY = {"temperature": 0, "max_tokens": 8, "ignore_eos": True, "detokenize": False}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process in which model runner V2 was chosen."""
    skip_without(PATCH)
    log = tmp_path_factory.mktemp("model-runner-v2") / "worker.log"
    process = Worker(log, VLLM_ASCEND_PATCH_ENABLE=PATCH, VLLM_USE_V2_MODEL_RUNNER="1")
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture(scope="module")
def engine(worker: Worker) -> Callable[..., Engine]:
    """As in the other modules, in this one's process."""
    return engines(worker)


@pytest.fixture(scope="module")
def tiny_llama(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_llama(worker, tmp_path_factory.mktemp("tiny-v2"))


@pytest.fixture(scope="module")
def tiny_engine(engine: Callable[..., Engine], tiny_llama: str) -> Callable[..., Engine]:
    return partial(engine, tiny_llama, dtype="float32", skip_tokenizer_init=True)


def test_it_is_model_runner_v2(tiny_engine: Any, worker: Worker) -> None:
    assert worker.call("model_runner", name=tiny_engine().name) == "vllm.v1.worker.gpu.model_runner"


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_float32_tokens_equal_transformers(family: str, worker: Worker, tmp_path: Path) -> None:
    folder = str(tmp_path / family)
    worker.call("make_family", family=family, folder=folder)
    wanted = worker.call("reference_greedy", folder=folder, dtype="float32", prompts=prompts(), count=8)
    worker.call("load", name=family, model=folder, dtype="float32", skip_tokenizer_init=True)
    got = worker.call("generate", name=family, prompts=prompts(), params=GREEDY)
    worker.call("unload", name=family)
    assert [answer["token_ids"] for answer in got] == [answer["token_ids"] for answer in wanted]


def test_bad_words_are_avoided(tiny_engine: Any) -> None:
    """Of a greedy answer the third token is banned after the second, then the second one altogether."""
    plain = tiny_engine().generate([prompts()[0]], GREEDY)[0]["token_ids"]
    (after,) = tiny_engine().generate([prompts()[0]], {**GREEDY, "_bad_words_token_ids": [plain[1:3]]})
    (never,) = tiny_engine().generate([prompts()[0]], {**GREEDY, "_bad_words_token_ids": [[plain[1]]]})
    assert after["token_ids"][:2] == plain[:2] and after["token_ids"][2] != plain[2]
    assert never["token_ids"][0] == plain[0] and plain[1] not in never["token_ids"]


def test_logprobs_of_chosen_tokens(raw: Any) -> None:  # noqa: F811
    common = {"temperature": 0, "max_tokens": 1, "ignore_eos": True, "detokenize": False}
    (every,) = raw.generate([prompts()[1]], {**common, "logprobs": -1})
    chosen, best = raw.generate(
        [prompts()[1]] * 2, [{**common, "logprobs": 3, "logprob_token_ids": [3, 500, 41]}, {**common, "logprobs": 2}]
    )
    row = every["logprobs"][0]
    assert {token: chosen["logprobs"][0][token] for token in ("3", "500", "41")} == pytest.approx(
        {token: row[token] for token in ("3", "500", "41")}, abs=1e-4
    )
    assert set(best["logprobs"][0]) == set(sorted(row, key=row.__getitem__)[-2:])


@pytest.mark.parametrize("budget", [512, 64])
def test_prompt_logprobs_equal_transformers(budget: int, tiny_engine: Any, tiny_llama: str, worker: Worker) -> None:
    """In one piece, and in chunks: the rows of all chunks come together."""
    small = tiny_engine(max_num_batched_tokens=budget, enable_chunked_prefill=True, max_logprobs=-1)
    given = prompts()[1]
    (answer,) = small.generate([given], {**GREEDY, "max_tokens": 1, "prompt_logprobs": 2})
    logits = worker.call("reference_logits", folder=tiny_llama, dtype="float32", tokens=given)
    assert len(answer["prompt_logprobs"]) == len(given) - 1
    for following, row, found in zip(given[1:], logits, answer["prompt_logprobs"], strict=False):
        best = max(row)
        differences = {
            token: (found[token] - found[str(following)]) - (row[int(token)] - row[following]) for token in found
        }
        assert all(abs(difference) < 2e-3 for difference in differences.values())
        assert str(row.index(best)) in found


REFUSED = {
    "speculative decoding": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
    "LoRA": {"enable_lora": True},
    "Gumbel noise in float64": {"use_fp64_gumbel": True},
    "prompt embeddings": {"enable_prompt_embeds": True},
}


@pytest.mark.parametrize("feature", REFUSED)
def test_what_needs_more_kernels_is_refused_at_start(feature: str, worker: Worker, tiny_llama: str) -> None:
    with pytest.raises(WorkerError, match=f"Model Runner V2 on an NPU does not support {feature}: leave that out"):
        worker.call("load", name=feature, model=tiny_llama, skip_tokenizer_init=True, **REFUSED[feature])
