"""Models that keep keys and values as int8, against transformers whose attention rounds them to the same integers."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import drafting_environment, installed_vllm
from tests.end_to_end.engine_functions import SMALL_CACHE_BYTES
from tests.end_to_end.worker import Worker, WorkerError
from tests.models import ties
from tests.models.families import VOCABULARY, prompts

pytestmark = pytest.mark.shows("int8 KV cache")
COUNT = 8
JITTERS = 4
BLOCK = 128
GREEDY = {"temperature": 0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False}
NGRAMS = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
CASES = [
    ("llama", "c8-coarse", "float16"),
    ("qwen3", "c8-shifted", "float16"),
    ("llama", "c8-w8a8", "bfloat16"),
    ("mistral-sliding-window", "c8", "float16"),
    ("qwen3", "tensor", "bfloat16"),
    ("llama", "head", "float16"),
]


@pytest.fixture(scope="module")
def cached_folder(
    reference: Worker, family_folder: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], str]:
    """The checkpoint of a family and kind, made on first use."""
    base = tmp_path_factory.mktemp("int8-caches")

    def folder(family: str, kind: str) -> str:
        path: Path = base / f"{family}-{kind}"
        if not path.exists():
            reference.call("make_int8_cache", source=family_folder(family), folder=str(path), kind=kind)
        return str(path)

    return folder


@pytest.fixture
def engine(worker: Worker) -> Iterator[Callable[..., dict[str, Any]]]:
    """Load a checkpoint; under its folder's name."""
    loaded = []

    def load(folder: str, **options: Any) -> dict[str, Any]:
        facts: dict[str, Any] = worker.call("load", name=folder, model=folder, skip_tokenizer_init=True, **options)
        loaded.append(folder)
        return facts

    yield load
    for name in loaded:
        worker.call("unload", name=name)


def block_bytes(folder: str) -> int:
    """Of one block in all layers, with a byte per number."""
    config = json.loads(Path(folder, "config.json").read_text())
    tokens = 2 * BLOCK * config["num_hidden_layers"]
    return int(tokens * config["num_key_value_heads"] * config["head_dim"])


def long_prompt(length: int) -> list[int]:
    return [2 + (7 * index + index * index) % (VOCABULARY - 2) for index in range(length)]


def compare(
    reference: Worker, folder: str, given: list[list[int]], got: list[dict[str, Any]], dtype: str = "float16"
) -> list[ties.Difference]:
    count = len(got[0]["token_ids"])
    expected = reference.call("reference_greedy", folder=folder, dtype=dtype, prompts=given, count=count)
    return ties.check(reference, folder, given, got, expected, dtype=dtype, jitters=JITTERS)


@pytest.mark.parametrize(("family", "kind", "dtype"), CASES)
def test_tokens_equal_the_reference_up_to_ties(
    family: str, kind: str, dtype: str, engine: Any, worker: Worker, reference: Worker,
    cached_folder: Callable[[str, str], str], record_property: Any,
) -> None:  # fmt: skip
    folder = cached_folder(family, kind)
    facts = engine(folder, dtype=dtype)
    assert facts["num_blocks"] == SMALL_CACHE_BYTES // block_bytes(folder)
    got = worker.call("generate", name=folder, prompts=prompts(), params=GREEDY)
    found = compare(reference, folder, prompts(), got, dtype)
    for difference in found:
        record_property("tie", difference._asdict())
    record_property("equal_answers", len(got) - len(found))


def log_probabilities(named: list[dict[str, float]], rows: list[list[float]]) -> list[dict[str, float]]:
    """Those of a few tokens at each position, from all logits."""
    result = []
    for tokens, row in zip(named, rows, strict=True):
        top = max(row)
        total = top + math.log(sum(math.exp(logit - top) for logit in row))
        result.append({token: row[int(token)] - total for token in tokens})
    return result


def apart(some: list[dict[str, float]], others: list[dict[str, float]]) -> list[float]:
    """The largest difference at each position."""
    return [max(abs(one[token] - other[token]) for token in one) for one, other in zip(some, others, strict=True)]


def test_the_logits_error_is_bounded(
    engine: Any, worker: Worker, reference: Worker, cached_folder: Callable[[str, str], str],
    family_folder: Callable[[str], str], record_property: Any,
) -> None:  # fmt: skip
    """Log-probabilities of the answers' best tokens: as near to the reference as float16 lets it be to itself."""
    folder = cached_folder("llama", "c8-coarse")
    engine(folder, dtype="float16")
    got = worker.call("generate", name=folder, prompts=prompts(), params={**GREEDY, "logprobs": 5})
    errors, roundings, unquantised = [], [], []
    for prompt, answer in zip(prompts(), got, strict=True):
        context, mine = prompt + answer["token_ids"][:-1], answer["logprobs"]

        def rows(folder: str, dtype: str, jitter: int | None = None, context: Any = context) -> Any:
            every = reference.call("reference_logits", folder=folder, dtype=dtype, tokens=context, jitter=jitter)
            return every[-COUNT:]

        exact = rows(folder, "float32")
        theirs = [log_probabilities(mine, exact), log_probabilities(mine, rows(family_folder("llama"), "float32"))]
        jittered = [log_probabilities(mine, rows(folder, "float16", seed)) for seed in range(JITTERS)]
        errors += apart(mine, theirs[0])
        unquantised += apart(theirs[1], theirs[0])
        roundings += [max(position) for position in zip(*(apart(one, theirs[0]) for one in jittered), strict=True)]
    for statistic in (max, mean):
        error, rounding, distance = (statistic(numbers) for numbers in (errors, roundings, unquantised))
        record_property(statistic.__name__, [error, rounding, distance])
        # What keys and values as they are give lies outside, or the comparison would say nothing.
        assert error <= 2 * rounding < distance


def test_blocks_are_half_as_large(engine: Any, worker: Worker, cached_folder: Callable[[str, str], str]) -> None:
    """Twice as many in the same memory; a type that the user names goes before the checkpoint's."""
    folder = cached_folder("llama", "c8")
    short = engine(folder, dtype="bfloat16")
    worker.call("unload", name=folder)
    whole = worker.call("load", name=folder, model=folder, skip_tokenizer_init=True, dtype="bfloat16",
                        kv_cache_dtype="bfloat16")  # fmt: skip
    assert short["num_blocks"] == 2 * whole["num_blocks"] and short["block_size"] == whole["block_size"] == BLOCK
    worker.call("generate", name=folder, prompts=[[5, 6, 7]], params=GREEDY)


def test_a_decode_step_has_one_attention_and_two_roundings_per_layer(
    engine: Any, worker: Worker, cached_folder: Callable[[str, str], str]
) -> None:
    """As the device saw them, and no wait of the host that an engine without it has not."""
    folder = cached_folder("llama", "c8")
    engine(folder, dtype="bfloat16")
    options = {"name": folder, "prompts": [[5, 6, 7, 8], [9, 10, 11]]}
    short, long = (worker.call("traced_counts", **options, params={**GREEDY, "max_tokens": count}) for count in (2, 6))
    per_step = {name: (calls - short["aclnn"].get(name, 0)) / 4 for name, calls in long["aclnn"].items()}
    names = ("aclnnFusedInferAttentionScoreV3", "aclnnAscendQuantV3", "aclnnScatterPaKvCache",
             "aclnnFlashAttentionVarLenScore")  # fmt: skip
    assert [per_step.get(name, 0) for name in names] == [2, 4, 2, 0]


@pytest.mark.parametrize("family", ["llama", "mistral-sliding-window"])
def test_answers_do_not_depend_on_the_schedule(
    family: str, engine: Any, worker: Worker, reference: Worker, cached_folder: Callable[[str, str], str]
) -> None:
    """Prompts in pieces beside others that decode, prefixes that are cached, and requests that are preempted."""
    folder = cached_folder(family, "c8")
    engine(folder, dtype="float16", max_num_seqs=3, max_num_batched_tokens=96, num_gpu_blocks_override=6,
           max_model_len=384, enable_prefix_caching=True)  # fmt: skip
    mixed = [long_prompt(length) for length in (3, 140, 17, 1, 90, 129)]
    compare(reference, folder, mixed, worker.call("generate", name=folder, prompts=mixed, params=GREEDY))
    start = long_prompt(2 * BLOCK + 20)[::-1]
    branch = start[: BLOCK + 5] + [9, 8, 7]
    answers = [
        worker.call("generate", name=folder, prompts=[prompt], params=GREEDY)[0] for prompt in (start, start, branch)
    ]
    if family == "llama":
        assert [answer["cached_tokens"] for answer in answers] == [0, 2 * BLOCK, BLOCK]
    compare(reference, folder, [start, start, branch], answers)
    # Three requests that grow into two blocks each, and five blocks to use.
    growing = [long_prompt(length)[::-1] for length in (251, 250, 249)]
    params = {**GREEDY, "max_tokens": 12}
    compare(reference, folder, growing, worker.call("generate", name=folder, prompts=growing, params=params))


@pytest.mark.slow
@pytest.mark.engine_process
def test_two_devices_have_the_steps_of_their_heads(
    reference: Worker, cached_folder: Callable[[str, str], str], tmp_path: Path
) -> None:
    folder = cached_folder("llama", "c8-shifted")
    with Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path)) as process:
        process.call("load", name="two", model=folder, skip_tokenizer_init=True, dtype="float16",
                     tensor_parallel_size=2, distributed_executor_backend="mp")  # fmt: skip
        got = process.call("generate", name="two", prompts=prompts(), params=GREEDY)
        process.call("unload", name="two")
        assert process.close() == 0, process.log_tail()
    compare(reference, folder, prompts(), got)


def test_n_grams_are_verified_on_an_int8_cache(
    reference: Worker, cached_folder: Callable[[str, str], str], tmp_path: Path
) -> None:
    """Several new tokens of requests that decode."""
    folder = cached_folder("llama", "c8")
    options = {"speculative_config": NGRAMS, "disable_log_stats": False, "skip_tokenizer_init": True}
    given = [[9] * 40, [20] * 8, [31] * 60]  # after which this model repeats itself
    with Worker(tmp_path / "worker.log", **drafting_environment()) as process:
        process.call("load", name="n-grams", model=folder, dtype="float16", **options)
        got = process.call("generate", name="n-grams", prompts=given, params={**GREEDY, "max_tokens": 3 * COUNT})
        drafted, accepted = process.call("accepted_drafts", name="n-grams")
        process.call("unload", name="n-grams")
        assert process.close() == 0, process.log_tail()
    assert 0 < accepted < drafted
    compare(reference, folder, given, got)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("tensor", {"dtype": "float32"}, "int8 cache: .*start with --dtype bfloat16"),
        ("c8", {"block_size": 16}, "multiple of 32 tokens up to 512, not 16"),
        ("c8", {"kv_cache_dtype": "fp8"}, "--kv-cache-dtype fp8 needs kernels for CUDA: leave it out"),
        ("c8", {"kv_offloading_size": 1}, "cannot be offloaded or transferred yet"),
        (
            "c8",
            {"dtype": "float16", "kv_cache_dtype": "bfloat16"},
            # vLLM says so itself from 0.33 on.
            r"in the model's type, which is torch\.float16: leave it out, or start with --"
            r'|kv_cache_dtype="bfloat16" is incompatible with dtype="float16"\. Please set',
        ),
    ],
    ids=["float32", "block size", "fp8", "offloading", "another type"],
)
def test_what_cannot_be_is_refused_with_a_remedy(
    kind: str, options: dict[str, Any], message: str, engine: Any, cached_folder: Callable[[str, str], str]
) -> None:
    with pytest.raises(WorkerError, match=message):
        engine(cached_folder("qwen3", kind), **{"dtype": "bfloat16", **options})


REMEDY = re.compile(r"((?:--dtype \w+ )?--kv-cache-dtype \w+)( to keep| keeps) keys and values as they are")


def told(error: str) -> dict[str, str]:
    """The options that a refusal names to start with keys and values as they are."""
    found = REMEDY.search(error)
    assert found is not None, error
    words = found.group(1).replace("--", "").replace("-", "_").split()
    return dict(zip(words[::2], words[1::2], strict=True))


def attends(process: Worker, folder: str, **options: Any) -> Any:
    """What an engine answers."""
    process.call("load", name="whole", model=folder, skip_tokenizer_init=True, **options)
    answers = process.call("generate", name="whole", prompts=prompts(), params=GREEDY)
    process.call("unload", name="whole")
    return [answer["token_ids"] for answer in answers]


@pytest.mark.engine_process
def test_without_the_patch_it_is_refused_with_a_remedy_that_helps(
    cached_folder: Callable[[str, str], str], tmp_path: Path
) -> None:
    with Worker(tmp_path / "worker.log", VLLM_ASCEND_PATCH_DISABLE="quantization.int8_cache") as off:
        answers = {}
        for kind, dtype in (("c8", "float16"), ("tensor", "bfloat16"), ("head", "bfloat16")):
            folder, options = cached_folder("qwen3", kind), {"dtype": dtype}
            with pytest.raises(WorkerError, match=r"int8 cache: it needs the patch quantization\.int8") as refused:
                attends(off, folder, **options)
            if kind == "head":  # a place for steps per head comes with that patch
                assert REMEDY.search(str(refused.value)) is None
                with pytest.raises(WorkerError, match=r"with strategy attn_head, which vLLM cannot load beside"):
                    attends(off, folder, dtype="bfloat16", kv_cache_dtype="bfloat16")
            else:
                answers[kind] = attends(off, folder, **{**options, **told(str(refused.value))})
        assert len(answers) == 2 and off.close() == 0, off.log_tail()


def test_keys_and_values_of_an_fp8_cache_stay_as_they_are_where_the_user_says_so(
    worker: Worker, cached_folder: Callable[[str, str], str], tmp_path: Path
) -> None:
    """Also up to vLLM 0.21, where an attention layer does not look at what the user says."""
    folder = cached_folder("qwen3", "tensor")
    other = tmp_path / "fp8"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    config["quantization_config"]["kv_cache_scheme"]["type"] = "float"
    (other / "config.json").write_text(json.dumps(config))
    options = {"dtype": "bfloat16"}
    expected = attends(worker, folder, **options, kv_cache_dtype="bfloat16")
    if Version(installed_vllm()) >= Version("0.15.0"):
        with pytest.raises(WorkerError, match=r"asks for an FP8 cache") as refused:
            attends(worker, str(other), **options)
        options |= told(str(refused.value))
    assert attends(worker, str(other), **options) == expected
