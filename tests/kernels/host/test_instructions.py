"""Every instruction of the header against the formula of its documentation, written with numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

SOURCE = Path(__file__).with_name("instructions.cpp").read_text()
DTYPES = {
    "float": np.float32,
    "half": np.float16,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "int8": np.int8,
    "uint8": np.uint8,
    "int64": np.int64,
}
CASTS = (
    *("int8_half", "uint8_half", "int16_half", "int16_float", "half_int8", "half_uint8", "half_int16", "half_int32"),
    *("half_float", "bfloat16_int32", "bfloat16_float", "int32_int16", "int32_half", "int32_float", "int32_int64"),
    *("float_int16", "float_half", "float_bfloat16", "float_int32", "float_float", "float_int64"),
    *("int64_int32", "int64_float"),
)
ENTRIES = (
    *(f"arithmetic_{name}" for name in ("float", "half", "int16", "uint16", "int32", "uint32")),
    *(f"{group}_{name}" for group in ("repeats", "compare", "select", "reduce") for name in ("float", "half")),
    *(f"fill_{name}" for name in ("float", "half", "int16", "uint16", "int32", "uint32")),
    *(f"cast_{pair}" for pair in CASTS),
    *("compare_int32", "copy_rows", "atomics", "exchange", "scalars"),
)
NONE, RINT, FLOOR, CEIL, ROUND, TRUNC, ODD = range(7)


@pytest.fixture(scope="module")
def run(build: Any) -> Any:
    """Launches an entry and fails with its message if it does not succeed."""
    program = build(SOURCE, ENTRIES)

    def launch(entry: str, *arguments: Any, blocks: int = 1) -> None:
        outcome = program(entry, *arguments, blocks=blocks)
        assert outcome.fault == "SUCCESS", outcome.message

    launch.program = program  # type: ignore[attr-defined]
    return launch


def operands(name: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    dtype = np.dtype(DTYPES[name])
    if dtype.kind == "f":
        return generator.normal(0, 3, count).astype(dtype), generator.normal(0, 3, count).astype(dtype)
    low, high = (0, 60000) if dtype.kind == "u" else (-30000, 30000)
    return generator.integers(low, high, count).astype(dtype), generator.integers(low, high, count).astype(dtype)


BINARY = {0: np.add, 1: np.subtract, 2: np.multiply, 3: np.maximum, 4: np.minimum}
WITH_SCALAR = {5: np.add, 6: np.multiply, 7: np.maximum, 8: np.minimum}


@pytest.mark.parametrize("count", [1, 7, 64, 1000])
@pytest.mark.parametrize("name", ["float", "half", "int16", "int32"])
def test_arithmetic_is_exact_and_integers_wrap_around(run: Any, name: str, count: int) -> None:
    x, y = operands(name, count)
    for number, operation in (BINARY | WITH_SCALAR).items():
        scalar = 1.5 if x.dtype.kind == "f" else -3
        right = y if number in BINARY else x.dtype.type(scalar)
        out = np.zeros_like(x)
        run(f"arithmetic_{name}", x, y, out, count, number, scalar)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(out, operation(x, right), err_msg=operation.__name__)


@pytest.mark.parametrize(("name", "tolerance"), [("float", 3e-7), ("half", 1e-3)])
def test_functions_of_one_tensor(run: Any, name: str, tolerance: float) -> None:
    dtype = DTYPES[name]
    x, y = operands(name, 333)
    positive = np.abs(x) + dtype(0.01)
    wide, exact = x.astype(np.float64), positive.astype(np.float64)
    cases = [
        (10, x, wide / y),
        (11, x, np.exp(wide)),
        (12, positive, np.log(exact)),
        (13, x, np.abs(wide)),
        (14, positive, np.sqrt(exact)),
        (15, positive, 1 / np.sqrt(exact)),
        (16, x, 1 / wide),
        (17, x, np.maximum(wide, 0)),
        (18, x, np.where(wide > 0, wide, wide * 0.25)),
        (19, x, y + wide * 0.25),
        (20, x, y.astype(np.float64) + wide * y),
    ]
    for number, source, expected in cases:
        out = np.zeros_like(x)
        run(f"arithmetic_{name}", source, y, out, len(x), number, 0.25)
        np.testing.assert_allclose(
            out, expected, rtol=tolerance, atol=5e-3 * tolerance + 20 * tolerance * (number > 18)
        )


def test_exp_covers_its_whole_range(run: Any) -> None:
    x = np.concatenate([np.linspace(-110, 95, 3001), [0, -np.inf, np.inf, np.nan, -87.5, 88.72]]).astype(np.float32)
    out = np.zeros_like(x)
    run("arithmetic_float", x, x, out, len(x), 11, 0.0)
    with np.errstate(over="ignore"):
        expected = np.exp(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(out, expected, rtol=4e-7, atol=3e-45)


@pytest.mark.parametrize("name", ["int16", "uint16", "int32", "uint32"])
def test_bits_and_shifts(run: Any, name: str) -> None:
    x, y = operands(name, 100)
    width = x.dtype.itemsize * 8
    out = np.zeros_like(x)
    if width == 16:
        for number, expected in ((30, x & y), (31, x | y), (32, ~x)):
            run(f"arithmetic_{name}", x, y, out, 100, number, 0)
            np.testing.assert_array_equal(out, expected)
    for by in (0, 1, 5, width - 1, width):
        run(f"arithmetic_{name}", x, y, out, 100, 33, by)
        np.testing.assert_array_equal(out, ((x.astype(np.int64) << by) & ((1 << width) - 1)).astype(x.dtype))
        run(f"arithmetic_{name}", x, y, out, 100, 34, by)
        np.testing.assert_array_equal(out, (x.astype(np.int64) >> by).astype(x.dtype))
    outcome = run.program(f"arithmetic_{name}", x, y, out, 100, 33, width + 1)
    assert outcome.fault == "VALUE" and f"0..{width}" in outcome.message


@pytest.mark.parametrize("name", ["float", "half"])
def test_repeats_with_masks_and_strides(run: Any, name: str) -> None:
    dtype = DTYPES[name]
    lanes, row = 256 // np.dtype(dtype).itemsize, 320 // np.dtype(dtype).itemsize
    generator = np.random.default_rng(1)
    x = generator.integers(-50, 50, (3, row)).astype(dtype)
    y = generator.integers(-50, 50, (3, row)).astype(dtype)
    active = lanes - 19
    part, other = x[:, :active], y[0, :active]
    whole = x[:, :lanes].copy()
    whole[:, active:] = 0
    odd = np.zeros_like(x)
    odd[:, 1:lanes:2] = (x[:, :lanes] + y[0, :lanes])[:, 1::2]
    per_block = 32 // np.dtype(dtype).itemsize
    blocks = whole.reshape(3, 8, per_block)
    hidden = np.where(np.arange(lanes) < active, x[:, :lanes], -np.inf).reshape(3, 8, per_block)
    index = np.argmax(part, axis=1)
    pairs = np.stack([part.max(axis=1), index.astype(f"u{np.dtype(dtype).itemsize}").view(dtype)], axis=1).ravel()

    def scattered(rows: np.ndarray) -> np.ndarray:
        out = np.zeros_like(x)
        out[:, : rows.shape[1]] = rows
        return out.ravel()

    def leading(values: np.ndarray) -> np.ndarray:
        out = np.zeros(x.size, dtype)
        out[: values.size] = values.ravel()
        return out

    used = -(-active // per_block)
    block_max = np.zeros((3, 8), dtype)
    block_max[:, :used] = hidden.max(axis=2)[:, :used]
    pair_sum = whole.reshape(3, lanes // 2, 2).sum(axis=2, dtype=dtype)
    cases = [
        (0, scattered(part + other)),
        (1, odd.ravel()),
        (2, scattered(part * dtype(3))),
        (3, leading(whole.sum(axis=1, dtype=np.float64).astype(dtype))),
        (4, leading(pairs)),
        (5, leading(part.min(axis=1))),
        (6, leading(blocks.sum(axis=2, dtype=np.float64).astype(dtype))),
        (7, leading(block_max)),
        (8, leading(pair_sum)),
        (9, scattered(part * other + dtype(0))),
        (10, scattered(part)),
    ]
    for number, expected in cases:
        out = np.ones(x.size, dtype)
        run(f"repeats_{name}", x, y, out, active, number)
        np.testing.assert_array_equal(out.view(np.uint8), expected.view(np.uint8), err_msg=str(number))


def neighbours(name: str) -> np.ndarray:
    """All finite values of a 16-bit float, ascending, as float64."""
    bits = np.arange(65536, dtype=np.uint32)
    values = bits.astype(np.uint16).view(np.float16) if name == "half" else (bits << 16).view(np.float32)
    return np.unique(values[np.isfinite(values)].astype(np.float64))


def round_to_list(x: np.ndarray, values: np.ndarray, mode: int, odd: Any) -> np.ndarray:
    """`x` rounded to a sorted list of values, by comparing distances."""
    above_index = np.clip(np.searchsorted(values, x, side="left"), 1, len(values) - 1)
    above, below = values[above_index], values[above_index - 1]
    exact = above == x
    toward_zero = np.where(x < 0, above, below)
    away = np.where(x < 0, below, above)
    closer_above, tie = above - x < x - below, above - x == x - below
    even = np.where(odd(below), above, below)
    nearest = np.where(tie, even, np.where(closer_above, above, below))
    chosen = {
        NONE: nearest,
        RINT: nearest,
        FLOOR: below,
        CEIL: above,
        TRUNC: toward_zero,
        ROUND: np.where(tie, away, nearest),
        ODD: np.where(odd(below), below, above),
    }[mode]
    return np.where(exact, x, chosen)


def is_odd(name: str) -> Any:
    if name == "half":
        return lambda values: (values.astype(np.float16).view(np.uint16) & 1).astype(bool)
    return lambda values: (values.astype(np.float32).view(np.uint32) >> 16 & 1).astype(bool)


def sources(name: str) -> np.ndarray:
    generator = np.random.default_rng(5)
    if name in ("float", "half", "bfloat16"):
        x = np.concatenate([generator.normal(0, 30, 300), np.arange(-9, 9.5, 0.5), [1e-6, -1e-6, 40000, -40000]])
        x = np.concatenate([x, np.exp(generator.normal(0, 4, 100)), 1 + np.arange(9) / 4096, 1 + np.arange(9) / 512])
        if name == "bfloat16":
            return (x.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
        return x.astype(DTYPES[name])
    info = np.iinfo(DTYPES[name])
    edges = [info.min, info.min + 1, 0, 1, 2**20 - 1, 2**24 + 1, 2**24 + 3, 2**31 - 65, info.max - 1, info.max]
    edges = [edge for edge in edges if info.min <= edge <= info.max]
    low, high = max(info.min, -(2**40)), min(info.max, 2**40)
    return np.concatenate([edges, generator.integers(low, high, 300)]).astype(DTYPES[name])


def whole_numbers(x: np.ndarray, mode: int) -> np.ndarray:
    wide = x.astype(np.float64)
    return {
        NONE: np.rint,
        RINT: np.rint,
        FLOOR: np.floor,
        CEIL: np.ceil,
        TRUNC: np.trunc,
        ROUND: lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),
    }[mode](wide)


def expected_cast(source: str, target: str, x: np.ndarray, mode: int) -> np.ndarray:
    if source == target:
        return whole_numbers(x, mode).astype(np.float32)
    if target in ("half", "bfloat16") and x.dtype.itemsize > 1:
        if source == "int32":
            with np.errstate(over="ignore"):
                return x.astype(np.float32).astype(np.float16)
        values = round_to_list(x.astype(np.float64), neighbours(target), mode, is_odd(target))
        return values.astype(np.float16 if target == "half" else np.float32)
    if target == "float" and source in ("int32", "int64"):
        return np.array([integer_to_float(int(value), mode) for value in x], np.float32)
    if target in ("int8", "uint8", "int16", "int32", "int64"):
        info = np.iinfo(DTYPES[target])
        values = whole_numbers(x, mode) if x.dtype.kind == "f" else x
        return np.array([min(max(int(value), info.min), info.max) for value in values], DTYPES[target])
    return x.astype(DTYPES[target])


def integer_to_float(value: int, mode: int) -> np.float32:
    """An integer with 24 significant bits, in exact integer arithmetic."""
    magnitude = abs(value)
    step = 1 << max(magnitude.bit_length() - 24, 0)
    below = magnitude // step * step
    rest, up = magnitude - below, below + step
    if rest == 0:
        chosen = magnitude
    elif mode in (FLOOR, CEIL):
        chosen = up if (value < 0) == (mode == FLOOR) else below
    elif mode == TRUNC:
        chosen = below
    elif rest * 2 == step:
        chosen = up if mode == ROUND or below // step % 2 else below
    else:
        chosen = up if rest * 2 > step else below
    return np.float32(-chosen if value < 0 else chosen)


FIVE = (RINT, FLOOR, CEIL, ROUND, TRUNC)
MODES = {
    **dict.fromkeys(CASTS, FIVE),
    **dict.fromkeys(("int8_half", "uint8_half", "int16_float", "half_float", "bfloat16_float"), (NONE,)),
    **dict.fromkeys(("int32_int16", "int32_int64", "int64_int32"), (NONE,)),
    **dict.fromkeys(("int16_half", "half_int8", "half_uint8", "int32_float"), (*FIVE, NONE)),
    "float_half": (*FIVE, ODD, NONE),
    "int32_half": (NONE,),
}


@pytest.mark.parametrize("pair", CASTS)
def test_casts_round_as_documented(run: Any, pair: str) -> None:
    source, target = pair.split("_")
    x = sources(source)
    if pair == "float_half":
        x = x[np.abs(x) < 60000]
    given = (x.view(np.uint32) >> 16).astype(np.uint16) if source == "bfloat16" else x
    dtype = np.uint16 if target == "bfloat16" else DTYPES[target]
    for mode in MODES[pair]:
        out = np.zeros(len(x), dtype)
        run(f"cast_{pair}", given, out, len(x), mode)
        expected = expected_cast(source, target, x, mode)
        actual = (out.astype(np.uint32) << 16).view(np.float32) if target == "bfloat16" else out
        np.testing.assert_array_equal(actual, expected, err_msg=f"round mode {mode}")


def test_a_round_mode_outside_the_table_is_refused(run: Any) -> None:
    for pair, mode in (("half_float", TRUNC), ("float_int32", NONE), ("float_bfloat16", ODD)):
        source, target = pair.split("_")
        x = np.zeros(16, DTYPES[source])
        out = np.zeros(16, np.uint16 if target == "bfloat16" else DTYPES[target])
        outcome = run.program(f"cast_{pair}", x, out, 16, mode)
        assert outcome.fault == "VALUE" and "not documented" in outcome.message


@pytest.mark.parametrize("name", ["float", "half"])
def test_compare_packs_bits_from_the_lowest(run: Any, name: str) -> None:
    x, y = operands(name, 384)
    y[::5] = x[::5]
    x[3], y[9] = np.nan, np.inf
    tests = (np.less, np.greater, np.equal, np.less_equal, np.greater_equal, np.not_equal)
    for mode, test in enumerate(tests):
        for with_scalar in (0, 1):
            out = np.zeros(48, np.uint8)
            run(f"compare_{name}", x, y, out, 384, mode, with_scalar, 0.5)
            right = DTYPES[name](0.5) if with_scalar else y
            np.testing.assert_array_equal(out, np.packbits(test(x, right), bitorder="little"))


def test_int32_is_compared_for_equality_only(run: Any) -> None:
    x, y = operands("int32", 64)
    y[::3] = x[::3]
    out = np.zeros(8, np.uint8)
    run("compare_int32", x, y, out, 64, 2, 0, 0)
    np.testing.assert_array_equal(out, np.packbits(x == y, bitorder="little"))
    outcome = run.program("compare_int32", x, y, out, 64, 0, 0, 0)
    assert outcome.fault == "VALUE" and "EQ" in outcome.message


@pytest.mark.parametrize("count", [5, 64, 200, 1000])
@pytest.mark.parametrize("name", ["float", "half"])
def test_select_takes_the_first_source_where_the_bit_is_set(run: Any, name: str, count: int) -> None:
    x, y = operands(name, count)
    bits = np.random.default_rng(2).integers(0, 2, count).astype(bool)
    mask = np.packbits(bits, bitorder="little")
    repeat = 256 // x.dtype.itemsize
    for mode, expected in (
        (0, np.where(bits[np.arange(count) % repeat], x, y)),
        (1, np.where(bits, x, DTYPES[name](-2.5))),
        (2, np.where(bits, x, y)),
    ):
        out = np.zeros_like(x)
        run(f"select_{name}", x, y, mask, out, count, mode, -2.5)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 2000])
@pytest.mark.parametrize("name", ["float", "half"])
def test_reductions(run: Any, name: str, count: int) -> None:
    dtype = DTYPES[name]
    # Sums that are exact in both types, in whatever order.
    x = (np.random.default_rng(3).integers(-12, 13, count) / 4).astype(dtype)
    bits = f"u{x.dtype.itemsize}"
    out = np.zeros(2, dtype)
    run(f"reduce_{name}", x, out, count, 0)
    assert out[0] == x.sum(dtype=np.float64)
    for number, find in ((1, np.argmax), (2, np.argmin)):
        run(f"reduce_{name}", x, out, count, number)
        assert out[0] == x[find(x)]
        assert out.view(bits)[1] == find(x)
    run(f"reduce_{name}", x, out, count, 3)
    assert out[0] == x.max()


@pytest.mark.parametrize("name", ["float", "half", "int16", "uint16", "int32", "uint32"])
def test_fills_and_gathers(run: Any, name: str) -> None:
    x, _ = operands(name, 120)
    size = x.dtype.itemsize
    indices = np.random.default_rng(4).integers(0, 110, 120)
    offsets = (indices * size).astype(np.uint32)
    out = np.zeros_like(x)
    run(f"fill_{name}", x, offsets, out, 120, 0, 0)
    np.testing.assert_array_equal(out, np.full_like(x, x[1]))
    run(f"fill_{name}", x, offsets, out, 120, 1, 10 * size)
    np.testing.assert_array_equal(out, x[indices + 10])
    blocks = np.zeros((120, 32 // size), x.dtype)
    run(f"fill_{name}", x, offsets, blocks, 120, 2, 0)
    np.testing.assert_array_equal(blocks, np.repeat(x[:, None], 32 // size, axis=1))
    if not name.startswith("u"):
        run(f"fill_{name}", x, offsets, out, 120, 3, 7)
        np.testing.assert_array_equal(out, np.arange(7, 127).astype(x.dtype))
        run(f"fill_{name}", x, offsets, out, 120, 4, -3)
        np.testing.assert_array_equal(out, np.arange(-3, 237, 2).astype(x.dtype))


@pytest.mark.parametrize(("length", "left", "right"), [(16, 0, 0), (13, 0, 2), (13, 2, 1), (1, 0, 7), (8, 3, 5)])
def test_padded_copies_of_rows(run: Any, length: int, left: int, right: int) -> None:
    rows, gap = 5, 3
    source = np.arange(rows * (length + gap), dtype=np.float32)
    width = -(-(length + left + right) // 8) * 8
    padded = np.zeros((rows, width + 8), np.float32)
    out = np.full_like(source, 99)
    run("copy_rows", source, padded, out, rows, length, gap, left, right)
    expected = np.full((rows, width + 8), -1, np.float32)
    expected[:, left : left + length] = source.reshape(rows, -1)[:, :length]
    expected[:, width:] = 7
    np.testing.assert_array_equal(padded, expected)
    if left == 0:
        back = np.full((rows, length + gap), 99, np.float32)
        back[:, :length] = source.reshape(rows, -1)[:, :length]
        np.testing.assert_array_equal(out.reshape(rows, -1), back)


def test_atomic_copies_combine_what_all_blocks_write(run: Any) -> None:
    for number, expected in ((0, 5 + 1 + 2 + 3), (1, 5), (2, 1)):
        out = np.full(20, 5, np.int32)
        run("atomics", out, 20, number, blocks=3)
        assert set(out) == {expected}


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_no_block_passes_syncall_before_the_last_has_reached_it(run: Any, blocks: int) -> None:
    shared, out = np.zeros(blocks * 8, np.int32), np.zeros(blocks * 8, np.int32)
    run("exchange", shared, out, blocks=blocks)
    np.testing.assert_array_equal(out.reshape(blocks, 8)[:, 0], (np.arange(blocks) + 1) % blocks * 10 + 1)


def test_scalar_bfloat16_rounds_to_nearest_even(run: Any) -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -3.3, 1e-3, 65000.0], np.float32)
    out = np.zeros(6, np.uint16)
    run("scalars", x, out, 6)
    once = round_to_list(x.astype(np.float64), neighbours("bfloat16"), RINT, is_odd("bfloat16"))
    np.testing.assert_array_equal((out.astype(np.uint32) << 16).view(np.float32), (once * 2).astype(np.float32))
