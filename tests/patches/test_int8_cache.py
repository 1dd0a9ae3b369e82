"""Attention of one layer to an int8 cache, and the steps that checkpoints give it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("device")
HEADS, KV_HEADS, SIZE, BLOCK, SCALE = 4, 2, 64, 128, 0.12
WIDTH = KV_HEADS * SIZE
PREFIX = "model.layers.0.self_attn"
SCHEME = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False, "strategy": "tensor"}


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


@pytest.fixture(autouse=True)
def bfloat16() -> Any:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(usual)


class Batch:
    """Requests whose contexts are in the cache already, and whose `queries` new tokens are not; decodes come first."""

    def __init__(self, contexts: list[int], queries: list[int], shifted: bool) -> None:
        from ascend_patch.patches.attention._backend import AscendAttentionMetadata

        self.contexts, self.queries = contexts, queries
        lengths = [context + query for context, query in zip(contexts, queries, strict=True)]
        columns = max(-(-length // BLOCK) for length in lengths)
        order = torch.randperm(columns * len(lengths) + 2, generator=torch.Generator().manual_seed(1))
        self.table = order[: columns * len(lengths)].view(len(lengths), columns).int()
        self.keys, self.values = (
            [random(n, WIDTH, seed=first + row) for row, n in enumerate(lengths)] for first in (2, 40)
        )
        self.query = random(sum(queries), HEADS, SIZE, seed=90)
        drawn = torch.Generator().manual_seed(3)
        self.scales = [(torch.rand(WIDTH, generator=drawn) * 0.01 + 0.02).bfloat16().float() for _ in "kv"]
        points = [torch.randint(-20, 21, (WIDTH,), generator=drawn).float() for _ in "kv"]
        self.points = points if shifted else [torch.zeros(WIDTH) for _ in "kv"]
        self.cache = torch.zeros(len(order), 2, BLOCK, WIDTH, dtype=torch.int8)
        self.integers = [
            [self.rounded(rows, *steps) for rows in parts]
            for parts, *steps in zip((self.keys, self.values), self.scales, self.points, strict=True)
        ]
        for plane, parts in enumerate(self.integers):
            for row, context in enumerate(contexts):
                for position in range(context):
                    block = self.table[row, position // BLOCK]
                    self.cache[block, plane, position % BLOCK] = parts[row][position]
        slots = [
            int(self.table[row, position // BLOCK]) * BLOCK + position % BLOCK
            for row, length in enumerate(lengths)
            for position in range(contexts[row], length)
        ]
        ends = torch.tensor(queries).cumsum(0).tolist()
        decodes = next((row for row, count in enumerate(queries) if count != 1), len(queries))
        self.metadata = AscendAttentionMetadata(
            sum(queries), ends, lengths, self.table.npu(), torch.tensor(slots).npu(), BLOCK, True, num_decodes=decodes
        )

    @staticmethod
    def rounded(rows: torch.Tensor, scale: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        """By the reciprocal in the model's type, as the operator for quantizing takes it."""
        reciprocal = (1 / scale).bfloat16().float()
        return torch.round(rows.float() * reciprocal + point).clamp(-128, 127).to(torch.int8)

    def run(self, window: int | None = None) -> torch.Tensor:
        from ascend_patch.patches.attention._backend import AscendAttentionImpl
        from ascend_patch.patches.attention._int8 import AscendInt8Impl, Steps

        steps = [
            Steps.of(scale.npu(), point.npu() if bool(point.any()) else None, torch.bfloat16)
            for scale, point in zip(self.scales, self.points, strict=True)
        ]
        impl = AscendInt8Impl(AscendAttentionImpl(HEADS, SIZE, SCALE, KV_HEADS, sliding_window=window), *steps)
        new = [
            torch.cat([rows[context:] for rows, context in zip(parts, self.contexts, strict=True)])
            for parts in (self.keys, self.values)
        ]
        output = torch.full((sum(self.queries), HEADS * SIZE), torch.nan, dtype=torch.bfloat16).npu()
        # In memory the planes lie outside the blocks.
        cache = self.cache.transpose(0, 1).contiguous().npu().transpose(0, 1)
        heads = (rows.view(-1, KV_HEADS, SIZE).npu() for rows in new)
        impl.forward(None, self.query.npu(), *heads, cache, self.metadata, output)
        return output.cpu()

    def expected(self, window: int | None = None) -> torch.Tensor:
        """Attention in float64 over what the integers of whole contexts stand for."""
        results, first = [], 0
        for row, count in enumerate(self.queries):
            keys, values = (
                ((parts[row].double() - point.double()) * scale.double()).view(-1, KV_HEADS, SIZE)
                for parts, scale, point in zip(self.integers, self.scales, self.points, strict=True)
            )
            query = self.query[first : first + count].double()
            group = HEADS // KV_HEADS
            scores = torch.einsum("qhd,khd->hqk", query, keys.repeat_interleave(group, 1)) * SCALE
            key, own = torch.arange(scores.shape[-1]), torch.arange(count).unsqueeze(1) + self.contexts[row]
            hidden = key > own if window is None else (key > own) | (key <= own - window)
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            results.append(torch.einsum("hqk,khd->qhd", weights, values.repeat_interleave(group, 1)))
            first += count
        return torch.cat(results).flatten(1)


BATCHES = [
    ([200, 0, 5], [1, 1, 1]),
    ([0, 0], [130, 7]),
    ([300, 40, 150, 0, 129], [1, 1, 6, 20, 3]),
    ([20, 20, 20], [2, 2, 2]),
]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("rows", [16, 100, 4096])
@pytest.mark.parametrize(("contexts", "queries"), BATCHES)
def test_a_batch(
    contexts: list[int], queries: list[int], rows: int, shifted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ascend_patch.patches.attention import _int8

    monkeypatch.setattr(_int8, "CONTEXT_ROWS", rows)
    batch = Batch(contexts, queries, shifted)
    # Every merge rounds to bfloat16 once more.
    torch.testing.assert_close(batch.run().double(), batch.expected(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("rows", [16, 4096])
@pytest.mark.parametrize("window", [1, 48, 129, 1000])
@pytest.mark.parametrize(("contexts", "queries"), BATCHES)
def test_a_sliding_window(
    contexts: list[int], queries: list[int], window: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ascend_patch.patches.attention import _int8

    monkeypatch.setattr(_int8, "CONTEXT_ROWS", rows)
    batch = Batch(contexts, queries, False)
    torch.testing.assert_close(batch.run(window).double(), batch.expected(window), rtol=2e-2, atol=2e-2)


def test_what_was_computed_from_a_batch_is_used_by_the_next_layer() -> None:
    batch = Batch([300, 40], [1, 6], False)
    batch.run()
    kept = dict(batch.metadata.kept)
    batch.run()
    assert kept and all(batch.metadata.kept[name] is value for name, value in kept.items())


def test_decodes_are_counted_from_the_front() -> None:
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    from ascend_patch.patches.attention._backend import AscendMetadataBuilder

    def counted(dtype: torch.dtype, ends: list[int]) -> tuple[int, Any]:
        config: Any = SimpleNamespace(speculative_config=None)
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=KV_HEADS, head_size=SIZE, dtype=dtype)
        builder = AscendMetadataBuilder(spec, ["layer"], config, torch.device("cpu"))
        starts = torch.tensor([0, *ends], dtype=torch.int32)
        common: Any = SimpleNamespace(
            num_actual_tokens=ends[-1], num_reqs=len(ends), query_start_loc_cpu=starts, slot_mapping=None,
            block_table_tensor=torch.empty(9, 1), causal=True, seq_lens_cpu_upper_bound=starts[1:],
        )  # fmt: skip
        return builder.build(0, common).num_decodes, builder.reorder_batch_threshold

    assert counted(torch.int8, [1, 2, 3]) == (3, 1)
    assert counted(torch.int8, [1, 2, 6, 7]) == (2, 1)
    assert counted(torch.int8, [4, 5]) == (0, 1)
    assert counted(torch.bfloat16, [1, 2]) == (0, None)


class Loaded:
    """A layer for queries, keys and values that msModelSlim's C8 left steps beside, on one of several ranks."""

    def __init__(self, rank: int, ranks: int, total: int = 4) -> None:
        from ascend_patch.patches.quantization._modelslim_cache import beside_weights

        self.layer = torch.nn.Module()
        self.layer.head_size, self.layer.total_num_kv_heads, self.layer.tp_rank = 2, total, rank  # type: ignore[assignment]
        self.layer.num_kv_heads = max(1, total // ranks)  # type: ignore[assignment]
        self.layer.num_kv_head_replicas = max(1, ranks // total)  # type: ignore[assignment]
        nothing = SimpleNamespace(create_weights=lambda layer: None, process_weights_after_loading=lambda layer: None)
        self.method = beside_weights(nothing, "qkv_proj")
        self.method.create_weights(self.layer)

    def load(self, name: str, projection: str, numbers: list[float]) -> list[float]:
        parameter: Any = getattr(self.layer, name)
        parameter.weight_loader(parameter, torch.tensor(numbers), projection)
        found: list[float] = parameter["kv".index(projection)].tolist()
        return found

    def renew(self, name: str, numbers: dict[str, float]) -> None:
        """As a reload does: into memory as it is, then made ready; other parameters come as they were."""
        from ascend_patch.patches.quantization._modelslim_cache import _loader

        for each in ("kv_cache_scale", "kv_cache_offset"):
            old: Any = getattr(self.layer, each)
            fresh: Any = torch.nn.Parameter(torch.full_like(old, 77.0), requires_grad=False)
            self.layer.register_parameter(each, fresh)
            load = _loader(self.layer, each)
            given = numbers if each == name else {which: float(old["kv".index(which), 0]) for which in "kv"}
            for which, number in given.items():
                load(fresh, torch.tensor([number]), which)
        self.method.process_weights_after_loading(self.layer)


@pytest.mark.parametrize(
    ("rank", "ranks", "expected"),
    [(0, 1, [0, 1, 2, 3, 4, 5, 6, 7]), (1, 2, [4, 5, 6, 7]), (3, 8, [2, 3]), (7, 8, [6, 7])],
)
def test_a_rank_has_the_steps_of_its_heads(rank: int, ranks: int, expected: list[float]) -> None:
    loaded = Loaded(rank, ranks)
    assert loaded.load("kv_cache_scale", "v", [float(index) for index in range(8)]) == expected
    assert loaded.load("kv_cache_offset", "k", [3.0]) == [3.0] * len(expected)


def test_steps_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of k_proj has 6 numbers; one, or one for each of 4 x 2 channels"):
        Loaded(0, 1).load("kv_cache_scale", "k", [1.0] * 6)


def described(*layers: int) -> Any:
    from ascend_patch.patches.quantization._modelslim import ModelSlimConfig

    names = [f"model.layers.{layer}.self_attn.{which}_proj.kv_cache_scale" for layer in layers for which in "kv"]
    return ModelSlimConfig.from_config({"kv_cache_type": "C8", **dict.fromkeys(names, "C8")})


def attention(**attributes: Any) -> Any:
    layer: Any = torch.nn.Module()
    for name, value in {"kv_cache_dtype": "auto", "kv_cache_torch_dtype": torch.bfloat16, **attributes}.items():
        setattr(layer, name, value)
    return layer


def test_layers_without_steps_beside_others_with_them_are_refused() -> None:
    assert described().int8_cache is False and described().get_quant_method(attention(), f"{PREFIX}.attn") is None
    with pytest.raises(
        ValueError,
        match=r"in other layers than model.layers.0.self_attn.attn.*every layer, or of none, or .*--kv-cache-dtype",
    ):
        described(1).get_quant_method(attention(), f"{PREFIX}.attn")


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.quantization import kv_cache

    from ascend_patch.patches.quantization._int8_cache import Int8CacheMethod

    monkeypatch.setattr(kv_cache, "NPUInt8CacheMethod", Int8CacheMethod, raising=False)


@pytest.mark.usefixtures("patched")
def test_a_model_whose_keys_come_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="do not come from a layer qkv_proj"):
        described(0).get_quant_method(attention(), f"{PREFIX}.attn")


def test_without_the_patch_a_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.quantization import kv_cache

    monkeypatch.delattr(kv_cache, "NPUInt8CacheMethod", raising=False)
    with pytest.raises(ValueError, match=r"need the patch quantization.int8_cache"):
        described(0).get_quant_method(attention(), f"{PREFIX}.attn")


def attended(method: Any) -> Any:
    """A layer after its weights were created."""
    from ascend_patch.patches.attention._backend import AscendAttentionImpl

    layer = attention(impl=AscendAttentionImpl(HEADS, SIZE, SCALE, KV_HEADS), num_kv_heads=KV_HEADS, head_size=SIZE)
    method.create_weights(layer)
    return layer


def modelslim(loaded: Loaded) -> Any:
    from ascend_patch.patches.quantization._modelslim_cache import ModelSlimInt8CacheMethod

    return ModelSlimInt8CacheMethod(None, f"{PREFIX}.attn", loaded.layer)


def test_a_type_that_the_user_names_goes_before_the_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without the patch, with C8 in some layers only, and where keys come from no layer qkv_proj."""
    from vllm.model_executor.layers.quantization import kv_cache

    monkeypatch.delattr(kv_cache, "NPUInt8CacheMethod", raising=False)
    layer = attention()
    layer.kv_cache_dtype = "bfloat16"
    assert described(0).get_quant_method(layer, f"{PREFIX}.attn") is None
    assert described(1).get_quant_method(layer, f"{PREFIX}.attn") is None


@pytest.mark.usefixtures("patched")
def test_steps_that_are_loaded_again_are_written_where_they_were() -> None:
    loaded = Loaded(0, 1)
    for which in "kv":
        loaded.load("kv_cache_scale", which, [0.5])
    method = modelslim(loaded)
    layer = attended(method)
    assert layer.kv_cache_torch_dtype is torch.int8
    loaded.method.process_weights_after_loading(loaded.layer)
    method.process_weights_after_loading(layer)
    kept = dict(layer.named_buffers())
    assert {name: value.unique().tolist() for name, value in kept.items()} == {
        "npu_keys_scale": [0.5], "npu_keys_reciprocal": [2.0],
        "npu_values_scale": [0.5], "npu_values_reciprocal": [2.0],
    }  # fmt: skip
    loaded.layer.kv_cache_scale.data.fill_(0.25)  # type: ignore[operator, union-attr]
    method.process_weights_after_loading(layer)  # nothing came
    assert layer.npu_keys_scale.unique().tolist() == [0.5]
    loaded.renew("kv_cache_scale", {"k": 0.25, "v": 4.0})
    method.process_weights_after_loading(layer)
    assert all(getattr(layer, name) is value for name, value in kept.items())
    assert {name: value.unique().tolist() for name, value in kept.items()} == {
        "npu_keys_scale": [0.25], "npu_keys_reciprocal": [4.0],
        "npu_values_scale": [4.0], "npu_values_reciprocal": [0.25],
    }  # fmt: skip
    loaded.renew("kv_cache_scale", {"k": 0.25})
    with pytest.raises(ValueError, match="no usable step for its values"):
        method.process_weights_after_loading(layer)
    loaded.renew("kv_cache_scale", {"k": 1.0, "v": 1.0})
    loaded.renew("kv_cache_offset", {"v": 3.0})
    with pytest.raises(ValueError, match="without zero points since it was loaded, and these steps have some"):
        method.process_weights_after_loading(layer)
    assert layer.npu_keys_scale.unique().tolist() == [0.25]


@pytest.mark.usefixtures("patched")
def test_steps_that_are_missing_are_named() -> None:
    loaded = Loaded(0, 1)
    loaded.load("kv_cache_scale", "k", [0.5])
    method = modelslim(loaded)
    layer = attended(method)
    loaded.method.process_weights_after_loading(loaded.layer)
    with pytest.raises(
        ValueError,
        match=r"self_attn\.attn keeps int8.*no usable step for its values.*start with --kv-cache-dtype bfloat16",
    ):
        method.process_weights_after_loading(layer)


@pytest.mark.parametrize(
    ("rank", "ranks", "total", "expected"),
    [(0, 1, 2, [0, 1]), (1, 2, 4, [2, 3]), (3, 4, 2, [1]), (1, 4, 2, [0]), (3, 4, 4, [3]), (0, 2, 3, None)],
)
def test_a_rank_has_the_steps_per_head_of_its_heads(
    rank: int, ranks: int, total: int, expected: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ascend_patch.patches.quantization import _int8_cache_compressed as compressed

    monkeypatch.setattr(compressed, "get_tensor_model_parallel_rank", lambda: rank)
    monkeypatch.setattr(compressed, "get_tensor_model_parallel_world_size", lambda: ranks)
    config = SimpleNamespace(npu_int8_cache={**SCHEME, "strategy": "attn_head"})
    method = compressed.CompressedInt8CacheMethod(config, "a")
    layer = attention(num_kv_heads=max(1, total // ranks), head_size=SIZE)
    method.create_weights(layer)
    numbers = torch.arange(total).float().view(total, 1, 1)
    if expected is None:
        with pytest.raises(ValueError, match="a: k_scale has 3 numbers; one or one per head was expected"):
            layer.k_scale.weight_loader(layer.k_scale, numbers)
        return
    layer.k_scale.weight_loader(layer.k_scale, numbers)
    assert layer.k_scale.tolist() == expected
    layer.q_scale.weight_loader(layer.q_scale, torch.ones(7, 1, 1))  # nobody reads them


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_bits": 4}, "4 bits: quantize to 8"),
        ({"dynamic": True}, "steps that are found while it runs: calibrate them"),
        ({"symmetric": False}, "zero points: quantize symmetrically"),
        ({"strategy": "channel"}, "strategy channel: choose tensor or attn_head"),
    ],
)
def test_schemes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    from ascend_patch.patches.quantization._int8_cache_compressed import CompressedInt8CacheMethod

    with pytest.raises(ValueError, match=message):
        CompressedInt8CacheMethod(SimpleNamespace(npu_int8_cache={**SCHEME, **changes}), f"{PREFIX}.attn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.float32, 64, 128), "float16 or bfloat16, not torch.float32: start with --dtype bfloat16"),
        ((torch.bfloat16, 80, 128), "multiple of 32 up to 512, not 80"),
        ((torch.bfloat16, 64, 16), "32 tokens up to 512, not 16: leave --block-size out"),
        ((torch.bfloat16, 64, 1024), "32 tokens up to 512, not 1024"),
    ],
)
def test_what_the_operator_does_not_take(arguments: tuple[torch.dtype, int, int], message: str) -> None:
    from ascend_patch import npu

    assert message in npu.int8_attention_refuses(*arguments)
    assert npu.int8_attention_refuses(torch.float16, 96, 512) == ""
