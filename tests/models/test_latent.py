"""Latent attention (MLA) of DeepSeek-V2 and V3, with the real models' sizes per head, against transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import drafting_environment, installed_vllm
from tests.end_to_end.worker import Worker, WorkerError
from tests.models import ties
from tests.models.families import LATENT_FAMILIES, prompts

pytestmark = pytest.mark.shows("latent attention (MLA)")

COUNT = 8
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
OPTIONS: dict[str, Any] = {"dtype": "bfloat16", "skip_tokenizer_init": True}
LAYERS = 2


@pytest.fixture(scope="module")
def latent_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A process with the overlay and with latent attention, which `worker` here does without."""
    process = Worker(tmp_path_factory.mktemp("latent") / "worker.log")
    yield process
    assert process.close() == 0, process.log_tail()
    assert process.complaints() == []


@pytest.fixture
def engine(latent_worker: Worker, family_folder: Callable[[str], str]) -> Iterator[Callable[..., Callable[..., Any]]]:
    """Load a family; what comes back runs prompts on it."""
    loaded = []

    def load(family: str, **options: Any) -> Callable[..., list[dict[str, Any]]]:
        latent_worker.call("load", name=family, model=family_folder(family), **{**OPTIONS, **options})
        loaded.append(family)

        def generate(requests: list[list[int]]) -> list[dict[str, Any]]:
            answers: list[dict[str, Any]] = latent_worker.call("generate", name=family, prompts=requests, params=GREEDY)
            return answers

        return generate

    yield load
    for name in loaded:
        latent_worker.call("unload", name=name)


@pytest.fixture(scope="module")
def expected(reference: Worker, family_folder: Callable[[str], str]) -> Callable[[str], list[dict[str, Any]]]:
    """transformers' tokens for `prompts()` in bfloat16, once per family."""
    known: dict[str, list[dict[str, Any]]] = {}

    def answers(family: str) -> list[dict[str, Any]]:
        if family not in known:
            known[family] = reference.call(
                "reference_greedy", folder=family_folder(family), dtype="bfloat16", prompts=prompts(), count=COUNT
            )
        return known[family]

    return answers


@pytest.fixture(scope="module")
def agrees(
    reference: Worker, family_folder: Callable[[str], str], expected: Callable[[str], list[dict[str, Any]]]
) -> Callable[[str, list[dict[str, Any]]], None]:
    """Check answers to `prompts()`: the reference's tokens, up to its ties."""

    def check(family: str, answers: list[dict[str, Any]]) -> None:
        ties.check(reference, family_folder(family), prompts(), answers, expected(family))

    return check


@pytest.mark.parametrize("family", LATENT_FAMILIES)
def test_tokens_equal_transformers_up_to_ties(family: str, engine: Any, agrees: Any) -> None:
    generate = engine(family)
    agrees(family, generate(prompts()))


def test_cached_prefixes_give_the_same_tokens(engine: Any, agrees: Any) -> None:
    generate = engine("deepseek-v2-latent", enable_prefix_caching=True)
    first, again = generate(prompts()), generate(prompts())
    assert [answer["cached_tokens"] for answer in first] == [0, 0, 0, 0]
    assert [answer["cached_tokens"] for answer in again] == [0, 128, 0, 256]
    agrees("deepseek-v2-latent", first)
    agrees("deepseek-v2-latent", again)


def test_chunked_prefill_gives_the_same_tokens(engine: Any, agrees: Any) -> None:
    """A step takes at most 64 tokens: prompts are cut, their context is in the cache, and decodes join the batch."""
    generate = engine("deepseek-v3-latent", max_num_batched_tokens=64, enable_chunked_prefill=True)
    agrees("deepseek-v3-latent", generate(prompts()))


def test_a_head_that_drafts_with_latent_attention(
    reference: Worker, family_folder: Callable[[str], str], agrees: Any, tmp_path: Path
) -> None:
    """MTP: several tokens of a request are verified at once, and the head has a latent cache of its own."""
    folder, family, drafts = str(tmp_path / "mtp"), "deepseek-v3-latent", 2
    expected = reference.call(
        "make_drafter",
        kind="mtp-latent",
        target=family_folder(family),
        folder=folder,
        prompts=prompts(),
        length=COUNT,
        drafts=drafts,
        behind_norm=Version(installed_vllm()) >= Version("0.24.0"),
    )
    speculative = {"method": "mtp", "num_speculative_tokens": drafts}
    options = {**OPTIONS, "disable_log_stats": False, "async_scheduling": False, "speculative_config": speculative}
    answers, counts = [], [0]
    process = Worker(tmp_path / "worker.log", **drafting_environment())
    try:
        process.call("load", name="mtp", model=folder, **options)
        for prompt in prompts():
            answers += process.call("generate", name="mtp", prompts=[prompt], params=GREEDY)
            counts.append(process.call("accepted_drafts", name="mtp")[1])
        process.call("unload", name="mtp")
    finally:
        code = process.close()
    assert code == 0, process.log_tail()
    assert process.complaints() == []
    agrees(family, answers)
    # The reference drafts in float32; where bfloat16 says something else, the head was trained on other tokens.
    same = [number for number, answer in enumerate(answers) if answer["token_ids"] == expected[number]["token_ids"]]
    assert same
    for number in same:
        assert expected[number]["accepted"] >= COUNT / 2
        assert counts[number + 1] - counts[number] == expected[number]["accepted"]


def test_a_decode_step_attends_in_one_operator_and_waits_no_more_than_a_dense_model(
    engine: Any, latent_worker: Worker
) -> None:
    """Per layer: the cache's write and one attention operator. What waits is vLLM's model runner, once per step."""
    steps = {}
    for family in ("deepseek-v2-latent", "llama"):
        engine(family)
        options = {"name": family, "prompts": [[5, 6, 7, 8], [9, 10, 11]]}
        short, long = (
            latent_worker.call("traced_counts", **options, params={**GREEDY, "max_tokens": count}) for count in (2, 6)
        )
        steps[family] = {
            kind: {name: (calls - short[kind].get(name, 0)) / 4 for name, calls in long[kind].items()}
            for kind in ("aclnn", "sync")
        }
    latent = steps["deepseek-v2-latent"]
    assert latent["sync"] == steps["llama"]["sync"]
    attention = {name: calls for name, calls in latent["aclnn"].items() if "Attention" in name and calls}
    assert attention == {"aclnnFusedInferAttentionScoreV3": LAYERS}
    assert latent["aclnn"]["aclnnScatterPaKvCache"] == LAYERS


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "float32"}, "the operator takes float16 and bfloat16, not float32"),
        ({"hf_overrides": {"num_attention_heads": 6}}, "8, 16, 32, 64 or 128 heads per device, not 6"),
        ({"hf_overrides": {"kv_lora_rank": 256}}, "the operator takes kv_lora_rank 512"),
        ({"kv_cache_dtype": "fp8"}, "leave --kv-cache-dtype out"),
        ({"block_size": 64}, "leave --block-size out"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(
    options: dict[str, Any], reason: str, latent_worker: Worker, family_folder: Callable[[str], str]
) -> None:
    arguments = {"name": "refused", "model": family_folder("deepseek-v2-latent"), **OPTIONS, **options}
    with pytest.raises(WorkerError) as error:
        latent_worker.call("load", **arguments)
    assert reason in str(error.value)
    assert "VLLM_MLA_DISABLE=1" in str(error.value)
