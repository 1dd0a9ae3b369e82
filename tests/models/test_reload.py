"""New weights for quantized layers of a running engine, and the same after a deep sleep: what RL trainers do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.end_to_end.conftest import installed_vllm, skip_before, skip_from
from tests.end_to_end.worker import Worker, WorkerError
from tests.models import int8_caches
from tests.models.families import prompts
from tests.models.packed import SCHEMES as PACKED

pytestmark = [pytest.mark.engine_process, pytest.mark.shows("new weights for quantized layers")]
GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, "detokenize": False}
SINCE = "0.16.0"
WHAT = "a reload that knows of quantized layers"
NAME = "changing"
# Family, scheme, type, and the scheme of the second checkpoint where it may differ: GPTQ's groups in another order.
CASES = [
    ("qwen2", "channel-shifted", "float16", ""),
    ("llama", "tensor-dynamic", "bfloat16", ""),
    ("qwen2", "modelslim-half", "float16", ""),
    ("llama", "modelslim", "bfloat16", ""),
    ("qwen3-moe", "channel-dynamic", "bfloat16", ""),
    ("qwen3-moe", "modelslim-half", "float16", ""),
    ("llama", "w4-group-shifted", "bfloat16", ""),
    ("qwen3-moe", "w4-group", "bfloat16", ""),
    ("qwen3-moe", "awq-g32", "bfloat16", ""),
    ("qwen2", "w8-channel-shifted", "bfloat16", ""),
    ("qwen2", "gptq-w4-g32-ordered-shifted", "bfloat16", "gptq-w4-g32-shifted"),
    ("phi3", "gptq-w8-g64", "bfloat16", ""),
    ("qwen2", "awq-g64", "bfloat16", ""),
]
CACHES = [
    ("llama", "c8-coarse", "float16"),
    ("qwen3", "c8-shifted", "float16"),
    ("llama", "c8-one", "bfloat16"),
    ("qwen3", "tensor", "bfloat16"),
    ("llama", "head", "float16"),
]


@pytest.fixture(scope="module")
def checkpoint(
    reference: Worker, family_folder: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """A family's model in a scheme ("": as it is), with its own weights or with others."""
    base = tmp_path_factory.mktemp("checkpoints")

    def folder(family: str, scheme: str, *, other: bool = False) -> str:
        path: Path = base / f"{family}-{scheme}-{other}"
        if path.exists():
            return str(path)
        if other and not scheme:
            reference.call("write_flipped_weights", folder=family_folder(family), to=str(path))
            return str(path)
        source = folder(family, "", other=True) if other else family_folder(family)
        if scheme in int8_caches.KINDS:
            reference.call("make_int8_cache", source=source, folder=str(path), kind=scheme)
            return str(path)
        make = "make_packed" if scheme in PACKED else "make_quantised"
        reference.call(make, source=source, folder=str(path), scheme=scheme)
        return str(path)

    return folder


@pytest.fixture
def load(worker: Worker) -> Iterator[Callable[..., None]]:
    """An engine for one test."""
    loaded = []

    def start(folder: str, **options: Any) -> None:
        worker.call("load", name=NAME, model=folder, skip_tokenizer_init=True, **options)
        loaded.append(NAME)

    yield start
    for name in loaded:
        worker.call("unload", name=name)


def tokens(process: Worker, name: str = NAME) -> list[list[int]]:
    return [answer["token_ids"] for answer in process.call("generate", name=name, prompts=prompts(), params=GREEDY)]


def tokens_of_a_new_engine(process: Worker, folder: str, **options: Any) -> list[list[int]]:
    process.call("load", name=folder, model=folder, skip_tokenizer_init=True, **options)
    try:
        return tokens(process, folder)
    finally:
        process.call("unload", name=folder)


@pytest.mark.parametrize(("family", "scheme", "dtype", "second"), CASES)
def test_tokens_are_those_of_an_engine_with_the_new_weights(
    family: str, scheme: str, dtype: str, second: str, worker: Worker, load: Callable[..., None],
    checkpoint: Callable[..., str],
) -> None:  # fmt: skip
    skip_before(SINCE, WHAT)
    options = {"dtype": dtype, **({"quantization": "ascend"} if scheme == "modelslim-half" else {})}
    mine, other = checkpoint(family, scheme), checkpoint(family, second or scheme, other=True)
    load(mine, **options)
    first, expected = tokens(worker), tokens_of_a_new_engine(worker, other, **options)
    assert first != expected
    addresses = worker.call("weight_addresses", name=NAME)
    worker.call("reload_weights", name=NAME, folder=other)
    assert tokens(worker) == expected
    worker.call("spoil_weights", name=NAME)
    worker.call("send_weights", name=NAME, folder=mine)
    assert tokens(worker) == first
    assert worker.call("weight_addresses", name=NAME) == addresses


@pytest.mark.parametrize(("family", "kind", "dtype"), CACHES)
def test_int8_caches_have_the_new_steps(
    family: str, kind: str, dtype: str, worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str]
) -> None:
    skip_before(SINCE, WHAT)
    mine, other = (checkpoint(family, kind, other=changed) for changed in (False, True))
    worker.call("load", name="new", model=other, skip_tokenizer_init=True, dtype=dtype)
    expected, steps = tokens(worker, "new"), worker.call("cache_steps", name="new")
    worker.call("unload", name="new")
    load(mine, dtype=dtype)
    first, old = tokens(worker), worker.call("cache_steps", name=NAME)
    addresses = worker.call("weight_addresses", name=NAME)
    assert first != expected and old != steps and len(steps) == len(old) > 0
    worker.call("reload_weights", name=NAME, folder=other)
    assert worker.call("cache_steps", name=NAME) == steps and tokens(worker) == expected
    worker.call("spoil_weights", name=NAME)
    worker.call("send_weights", name=NAME, folder=mine)
    assert worker.call("cache_steps", name=NAME) == old and tokens(worker) == first
    assert worker.call("weight_addresses", name=NAME) == addresses


def test_steps_of_a_cache_are_not_loaded_over_those_of_the_operators(
    worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str]
) -> None:
    """Beside layers that are not quantized."""
    mine = checkpoint("llama", "c8")
    load(mine, dtype="bfloat16")
    with pytest.raises(WorkerError, match=r"model\.load_weights would put a checkpoint's over them.*start the engine"):
        worker.call("replace_weights", name=NAME, folder=mine)


@pytest.mark.parametrize(("kind", "without"), [("c8", ".kv_cache_scale"), ("tensor", "attn.v_scale")])
def test_new_weights_without_the_steps_of_the_cache_are_refused(
    kind: str, without: str, worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str]
) -> None:
    skip_before(SINCE, WHAT)
    mine = checkpoint("llama", kind)
    load(mine, dtype="bfloat16")
    first = tokens(worker)
    with pytest.raises(WorkerError, match=r"not reloaded: \S+ (keeps int8, but .* no usable step|got no kv_cache)"):
        worker.call("send_weights", name=NAME, folder=mine, without=without)
    worker.call("reload_weights", name=NAME, folder=mine)
    assert tokens(worker) == first


def test_zero_points_that_a_cache_had_not_at_first_are_refused(
    worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str]
) -> None:
    skip_before(SINCE, WHAT)
    mine = checkpoint("llama", "c8")
    load(mine, dtype="bfloat16")
    first = tokens(worker)
    with pytest.raises(WorkerError, match=r"not reloaded: \S+ keeps int8 without zero points since it was loaded"):
        worker.call("reload_weights", name=NAME, folder=checkpoint("llama", "c8-shifted"))
    worker.call("reload_weights", name=NAME, folder=mine)
    assert tokens(worker) == first


@pytest.mark.parametrize(
    ("family", "scheme"),
    [("qwen2", "modelslim-half"), ("llama", "c8-coarse"), ("qwen3", "tensor"), ("qwen3-moe", "channel-dynamic"),
     pytest.param("qwen2", "awq-g64", marks=pytest.mark.slow)],
)  # fmt: skip
def test_weights_are_read_again_after_a_deep_sleep(
    family: str, scheme: str, checkpoint: Callable[..., str], tmp_path: Path
) -> None:
    skip_before(SINCE, WHAT)
    options = {"dtype": "float16", "skip_tokenizer_init": True, "enable_sleep_mode": True}
    with Worker(tmp_path / "worker.log") as process:
        process.call("load", name=NAME, model=checkpoint(family, scheme), **options)
        first = tokens(process)
        for _ in range(2):
            process.call("sleep", name=NAME, level=2)
            process.call("wake_up", name=NAME, tags=["weights"])
            process.call("reload_weights", name=NAME)
            process.call("wake_up", name=NAME, tags=["kv_cache"])
            assert tokens(process) == first
        process.call("unload", name=NAME)
        assert process.close() == 0, process.log_tail()
        assert process.complaints() == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["modelslim", "c8-shifted", "head"])
def test_two_devices(scheme: str, checkpoint: Callable[..., str], tmp_path: Path) -> None:
    skip_before(SINCE, WHAT)
    options = {"dtype": "bfloat16", "tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    mine, other = (checkpoint("llama", scheme, other=changed) for changed in (False, True))
    with Worker(tmp_path / "worker.log", XDG_RUNTIME_DIR=str(tmp_path)) as process:
        process.call("load", name=NAME, model=other, skip_tokenizer_init=True, **options)
        expected = tokens(process)
        process.call("reload_weights", name=NAME, folder=mine)
        assert tokens(process) != expected
        process.call("reload_weights", name=NAME, folder=other)
        assert tokens(process) == expected
        process.call("unload", name=NAME)
        assert process.close() == 0, process.log_tail()


def test_what_is_not_whole_is_refused_and_then_may_come_whole(
    worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str], family_folder: Callable[[str], str]
) -> None:
    skip_before(SINCE, WHAT)
    mine = checkpoint("llama", "channel-static")
    load(mine, dtype="bfloat16")
    first = tokens(worker)
    for weights, reason in (
        (family_folder("llama"), r"not reloaded: \S+\.weight is torch\.int8 and was sent as torch\.float32"),
        (checkpoint("llama", "channel-dynamic"), r"not reloaded: \S+ got no input_scale"),
    ):
        with pytest.raises(WorkerError, match=reason):
            worker.call("reload_weights", name=NAME, folder=weights)
        worker.call("reload_weights", name=NAME, folder=mine)
        assert tokens(worker) == first


def test_groups_that_come_in_another_order_are_refused(
    worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str]
) -> None:
    skip_before(SINCE, WHAT)
    mine = checkpoint("qwen2", "gptq-w4-g32-shifted")
    load(mine, dtype="bfloat16")
    first = tokens(worker)
    with pytest.raises(WorkerError, match=r"not reloaded: \S+ had its groups in the order of its rows"):
        worker.call("reload_weights", name=NAME, folder=checkpoint("qwen2", "gptq-w4-g32-ordered-shifted"))
    worker.call("reload_weights", name=NAME, folder=mine)
    assert tokens(worker) == first


@pytest.mark.parametrize(
    ("scheme", "dtype"), [("channel-dynamic", "bfloat16"), ("awq-g64", "float16"), ("modelslim", "bfloat16")]
)
def test_weights_are_not_loaded_over_those_of_the_operators(
    scheme: str, dtype: str, worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str]
) -> None:
    mine = checkpoint("llama", scheme)
    load(mine, dtype=dtype)
    with pytest.raises(WorkerError, match=r"model\.load_weights would put a checkpoint's over them.*start the engine"):
        worker.call("replace_weights", name=NAME, folder=mine)


@pytest.mark.parametrize("scheme", ["channel-dynamic", "awq-g64", "w4-channel", "c8"])
def test_older_versions_refuse_and_go_on(
    scheme: str, worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str]
) -> None:
    skip_from(SINCE, "reloads quantized layers")
    load(checkpoint("llama", scheme), dtype="bfloat16")
    first = tokens(worker)
    with pytest.raises(WorkerError, match="cannot reload the weights of quantized layers, and nothing was changed"):
        worker.call("reload_weights", name=NAME)
    assert tokens(worker) == first


def test_experts_with_a_correction_bias(
    worker: Worker, load: Callable[..., None], checkpoint: Callable[..., str]
) -> None:
    """Which belongs to their gate as well; vLLM up to 0.19 takes it for one of the experts' that did not come."""
    skip_before(SINCE, WHAT)
    mine, other = (checkpoint("glm4-moe", "channel-dynamic", other=changed) for changed in (False, True))
    load(mine, dtype="bfloat16")
    first = tokens(worker)
    if Version(installed_vllm()) < Version("0.20.0"):
        with pytest.raises(WorkerError, match=r"correction bias.*Nothing was changed: .*or use vLLM 0\.20 or newer"):
            worker.call("reload_weights", name=NAME, folder=other)
    else:
        worker.call("reload_weights", name=NAME, folder=other)
        assert tokens(worker) != first
        worker.call("reload_weights", name=NAME, folder=mine)
    assert tokens(worker) == first
