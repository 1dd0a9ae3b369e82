"""What model runner V2 does to logits, its random numbers and its log-probabilities, against plain Python."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch

from ascend_patch.patches.worker import _v2_logits as logits_
from ascend_patch.patches.worker import _v2_samples as samples

pytestmark = pytest.mark.usefixtures("device")
VOCABULARY, MAX_REQUESTS, WIDTH = 101, 7, 24
ROWS = [5, 0, 3, 6]
NOTHING = -math.inf


def int32(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32).npu()


def int64(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64).npu()


def float32(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).npu()


def some_logits(seed: int, rows: int = len(ROWS)) -> list[list[float]]:
    chooser = random.Random(seed)
    return [[round(chooser.gauss(0, 3), 3) for _ in range(VOCABULARY)] for _ in range(rows)]


def close(found: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found.cpu(), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_temperature_and_min_p() -> None:
    given = some_logits(1)
    heat, limits = [1.0, 9, 9, 0.5, 9, 0.0, 2.0], [0.2, 9, 9, 0.0, 9, 0.01, 0.9]
    scaled = float32(given)
    logits_.temperature[(4, 1)](scaled, VOCABULARY, int64(ROWS), float32(heat), VOCABULARY, BLOCK_SIZE=8192)
    close(scaled, [[x / (heat[row] or 1.0) for x in line] for row, line in zip(ROWS, given, strict=True)])
    cut = float32(given)
    logits_.min_p[(4,)](cut, VOCABULARY, int64(ROWS), float32(limits), VOCABULARY, BLOCK_SIZE=1024)
    close(cut, [
        [x if math.exp(x - max(line)) >= limits[row] else NOTHING for x in line]
        for row, line in zip(ROWS, given, strict=True)
    ])  # fmt: skip


def test_penalties_follow_the_statistics() -> None:
    chooser = random.Random(2)
    tokens = [[chooser.randrange(VOCABULARY) for _ in range(WIDTH)] for _ in range(MAX_REQUESTS)]
    tokens[5][:4] = [31, 31, 63, 100]  # a sign bit, and a token twice
    prompt, prefill = [9, 0, 0, 12, 0, 4, 6], [11, 0, 0, 12, 0, 20, 9]
    words = -(-VOCABULARY // 32)
    mask, counts = int32([[0] * words] * MAX_REQUESTS), int32([[0] * VOCABULARY] * MAX_REQUESTS)
    logits_.bincount[(4, 2)](
        int64(ROWS), int32(tokens), WIDTH, int32(prompt), int32(prefill), mask, words, counts, VOCABULARY, BLOCK_SIZE=16
    )
    seen = {row: set(tokens[row][: prompt[row]]) for row in ROWS}
    output = {row: Counter(tokens[row][prompt[row] : prefill[row]]) for row in ROWS}
    assert counts.cpu().tolist() == [
        [output[row][token] if row in ROWS else 0 for token in range(VOCABULARY)] for row in range(MAX_REQUESTS)
    ]
    bits = mask.cpu().tolist()
    for row in range(MAX_REQUESTS):
        found = {token for token in range(32 * words) if bits[row][token // 32] >> (token % 32) & 1}
        assert found == (seen[row] if row in ROWS else set())

    repetition = [1.5, 9, 9, 1.0, 9, 0.7, 1.0]
    frequency, presence = [0.0, 9, 9, 0.3, 9, -0.4, 0.0], [0.6, 9, 9, 0.0, 9, 0.2, 0.0]
    given = some_logits(3)
    found = float32(given)
    logits_.penalties[(4, 1)](
        found, VOCABULARY, int64(ROWS), int32([0] * 4), int32([0] * 4), float32(repetition), float32(frequency),
        float32(presence), mask, words, counts, VOCABULARY, VOCABULARY, BLOCK_SIZE=8192,
    )  # fmt: skip
    expected = []
    for row, line in zip(ROWS, given, strict=True):
        penalised = []
        for token, logit in enumerate(line):
            if token in seen[row] or output[row][token]:
                logit = logit / repetition[row] if logit > 0 else logit * repetition[row]
            penalised.append(logit - frequency[row] * output[row][token] - presence[row] * (output[row][token] > 0))
        expected.append(penalised)
    close(found, expected)


@pytest.mark.parametrize("restoring", [False, True])
def test_allowed_tokens_bias_and_stop_tokens(restoring: bool) -> None:
    allowed = {5: [2, 7], 0: [], 3: [], 6: [4, 9]}
    biased = {5: [(2, 1.5)], 0: [(0, -2.0), (8, 3.0)], 3: [], 6: []}
    stops = {5: [2], 0: [], 3: [1, 90], 6: [4, 9]}
    least = {5: 3, 0: 0, 3: 40, 6: 40}
    positions = [10, 10, 10, 10]
    restored = {5: 0, 0: 0, 3: 1, 6: 1}

    def column(entries: dict[int, Any]) -> list[Any]:
        return [entries.get(row, 0) for row in range(MAX_REQUESTS)]

    def matrix(lists: dict[int, list[Any]], width: int, filler: Any) -> list[list[Any]]:
        return [(lists.get(row, []) + [filler] * width)[:width] for row in range(MAX_REQUESTS)]

    def lengths(lists: dict[int, list[Any]]) -> torch.Tensor:
        return int32(column({row: len(entries) for row, entries in lists.items()}))

    given = some_logits(4)
    found = float32(given)
    logits_.bias[(4,)](
        found, VOCABULARY, VOCABULARY, int64(ROWS),
        lengths(allowed), int32(matrix(allowed, 6, 55)), 6,
        lengths(biased), int32(matrix({r: [t for t, _ in e] for r, e in biased.items()}, 5, 66)), 5,
        float32(matrix({r: [b for _, b in e] for r, e in biased.items()}, 5, 1e9)), 5,
        int64(positions), int32(column(least)), lengths(stops), int32(column(restored)), int32(matrix(stops, 4, 77)), 4,
        BLOCK_SIZE=8, LOGITS_BLOCK_SIZE=8192, CHECK_ALL_MASKED_ROWS=restoring,
    )  # fmt: skip
    expected = []
    for index, row in enumerate(ROWS):
        line = [x if not allowed[row] or token in allowed[row] else NOTHING for token, x in enumerate(given[index])]
        for token, added in biased[row]:
            line[token] += added
        if positions[index] + 1 < least[row]:
            without = [NOTHING if token in stops[row] else x for token, x in enumerate(line)]
            if not (restoring and restored[row] and max(without) == NOTHING):
                line = without
        expected.append(line)
    close(found, expected)


def test_bad_words() -> None:
    words = {5: [[3], [8, 9, 10]], 0: [[1, 2], [7, 2]], 3: [], 6: [[4, 5, 6, 7, 8, 9], [5, 11]]}
    outputs = {5: [1, 8, 9], 0: [7, 1], 3: [3, 8, 9], 6: [4, 5]}
    prompt = 6
    tokens = [[0] * WIDTH for _ in range(MAX_REQUESTS)]
    total, flat, offsets = [0] * MAX_REQUESTS, [[8] * 16 for _ in range(MAX_REQUESTS)], [[99] * 5 for _ in range(7)]
    for row, output in outputs.items():
        tokens[row][prompt - 4 : prompt] = [4, 5, 6, 7]  # the prompt's end does not count
        tokens[row][prompt : prompt + len(output)] = output
        total[row] = prompt + len(output)
        ends = [0]
        for word in words[row]:
            flat[row][ends[-1] : ends[-1] + len(word)] = word
            ends.append(ends[-1] + len(word))
        offsets[row][: len(ends)] = ends
    given = some_logits(5)
    found = float32(given)
    logits_.bad_words[(4, 2)](
        found, VOCABULARY, int64(ROWS), int32(flat), 16, int32(offsets), 5,
        int32([len(words.get(row, [])) for row in range(MAX_REQUESTS)]), int32(tokens), WIDTH,
        int32([prompt] * MAX_REQUESTS), int32(total), int32([0] * 4), int32([0] * 4),
    )  # fmt: skip
    expected = []
    for line, row in zip(given, ROWS, strict=True):
        banned = {
            word[-1] for word in words[row] if len(word) == 1 or outputs[row][1 - len(word) :] == word[:-1]
        }  # fmt: skip
        expected.append([NOTHING if token in banned else x for token, x in enumerate(line)])
    assert {token for line in expected for token, x in enumerate(line) if x == NOTHING} == {2, 3, 10, 11}
    close(found, expected)


def test_grammar_and_nans() -> None:
    given = some_logits(6)
    chooser = random.Random(6)
    free = [[chooser.random() < 0.5 for _ in range(VOCABULARY)] for _ in range(2)]
    words = -(-VOCABULARY // 32)
    mask = torch.zeros(2, words, dtype=torch.int64)
    for line, bits in enumerate(free):
        for token, bit in enumerate(bits):
            mask[line, token // 32] |= int(bit) << (token % 32)
    mask = torch.where(mask >= 1 << 31, mask - (1 << 32), mask).to(torch.int32)
    rows = [2, 0]
    found = float32(given)
    logits_.grammar_bitmask[(2, 1)](
        found, VOCABULARY, int32(rows), int32(range(5)), mask.npu(), words, VOCABULARY, MASK_STRIDE=1, BLOCK_SIZE=8192
    )
    expected = [list(line) for line in given]
    for bits, row in zip(free, rows, strict=True):
        expected[row] = [x if bit else NOTHING for x, bit in zip(given[row], bits, strict=True)]
    close(found, expected)

    broken = float32(given)
    broken[1, 3:5] = math.nan
    counts = int32([9] * 4)
    logits_.num_nans[(4,)](broken, VOCABULARY, counts, VOCABULARY, BLOCK_SIZE=8192)
    assert counts.cpu().tolist() == [0, 2, 0, 0]


def murmur3(words: list[int]) -> int:
    """MurmurHash3_x86_32 with seed 0, from its description, on unsigned numbers."""

    def rotated(x: int, by: int) -> int:
        return (x << by | x >> (32 - by)) & 0xFFFFFFFF

    h = 0
    for word in words:
        k = rotated(word * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF
        h = (rotated(h ^ k, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    h ^= 4 * len(words)
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


def test_the_hash_is_murmur3() -> None:
    # Published test vectors: the empty input, and four bytes 21 43 65 87 in this order.
    assert murmur3([]) == 0 and murmur3([0x87654321]) == 0xF55B516B
    seeds, positions = [3, -1, -(1 << 63), 0x123456789ABCDEF], [0, 7, 1 << 20, 131071]
    found = samples.hashed(int64(seeds), int64(positions), VOCABULARY).cpu().tolist()
    for line, seed, position in zip(found, seeds, positions, strict=True):
        low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
        assert [x & 0xFFFFFFFF for x in line] == [murmur3([low, high, position, t]) for t in range(VOCABULARY)]


def test_gumbel_noise_at_the_ends_and_between() -> None:
    bits = [0, 1, 0x7FFFFFFF, -0x80000000, 0x12345678, -2, -1]
    found = samples.gumbel_noise(int32(bits)).cpu().tolist()
    for value, noise in zip(bits, found, strict=True):
        uniform = min(((value & 0xFFFFFFFF) + 0.5) / 2**32, 1 - 2**-24)
        assert noise == pytest.approx(-math.log(-math.log1p(-uniform)), rel=2e-5, abs=2e-5)


def sampled(logits: list[list[float]], rows: list[int], seeds: list[int], heat: list[float], places: list[int]) -> Any:
    blocks = 3
    places_, best = int64([[-1] * blocks] * len(rows)), float32([[0.0] * blocks] * len(rows))
    samples.gumbel_sample[(len(rows), blocks)](
        places_, blocks, best, blocks, None, 0, 0, None, None, 0, float32(logits), VOCABULARY, int64(rows),
        int64(seeds), int64(places), float32(heat), VOCABULARY, BLOCK_SIZE=1024, IS_DRAFTING=False,
        APPLY_TEMPERATURE=False, USE_FP64=False, PER_TOKEN_COL=False,
    )  # fmt: skip
    # What vLLM makes of the two.
    return places_.gather(-1, best.argmax(-1, keepdim=True)).view(-1).cpu().tolist()


def test_sampling_adds_the_noise_of_seed_and_position() -> None:
    given = some_logits(7)
    seeds, heat, positions = [11, 0, 0, -5, 0, 12, 1 << 40], [0.7, 9, 9, 1.0, 9, 0.0, 1.3], [3, 14, 15, 92]
    given[2] = [NOTHING] * VOCABULARY
    given[2][17] = -3.0  # nothing else is left
    expected = []
    for line, row, position in zip(given, ROWS, positions, strict=True):
        noisy = []
        for token, logit in enumerate(line):
            words = [seeds[row] & 0xFFFFFFFF, seeds[row] >> 32 & 0xFFFFFFFF, position, token]
            noise = -math.log(-math.log1p(-(murmur3(words) + 0.5) / 2**32)) if heat[row] else 0.0
            noisy.append(logit + noise)
        expected.append(noisy.index(max(noisy)))
    assert sampled(given, ROWS, seeds, heat, positions) == expected
    alone = [
        sampled([line], [row], seeds, heat, [position])[0]
        for line, row, position in zip(given, ROWS, positions, strict=True)
    ]
    assert alone == expected and expected[2] == 17 and expected[0] == given[0].index(max(given[0]))


def test_frequencies_of_samples() -> None:
    """2000 positions, three tokens: every count within 4.5 standard deviations."""
    chances, draws = [0.6, 0.3, 0.1], 2000
    line = [math.log(chance) for chance in chances] + [NOTHING] * (VOCABULARY - 3)
    counts = Counter(sampled([line] * draws, [0] * draws, [1234], [1.0], list(range(draws))))
    assert set(counts) == {0, 1, 2}
    for token, chance in enumerate(chances):
        assert abs(counts[token] - draws * chance) <= 4.5 * math.sqrt(draws * chance * (1 - chance))


def test_logprobs_and_ranks() -> None:
    given = some_logits(8)
    ids = [[3, 5], [100, 0], [7, 7], [50, 51]]
    values, ranks = float32([[0.0] * 2] * 4), int64([0] * 4)
    samples.token_logprobs[(4,)](
        values, float32(given), VOCABULARY, int64(ids), 2, 2, VOCABULARY, BLOCK_SIZE=1024, TOPK_BLOCK_SIZE=2
    )
    first = [line[0] for line in ids]
    samples.ranks[(4,)](ranks, float32(given), VOCABULARY, int64(first), VOCABULARY, BLOCK_SIZE=8192)
    sums = [math.log(sum(math.exp(x) for x in line)) for line in given]
    close(values, [[given[i][t] - sums[i] for t in line] for i, line in enumerate(ids)])
    assert ranks.cpu().tolist() == [sum(x >= given[i][t] for x in given[i]) for i, t in enumerate(first)]


@pytest.mark.parametrize("best", [0, 2, 4])
def test_reported_tokens(best: int) -> None:
    wanted = {5: [9, 8, 7], 0: [], 3: [4], 6: []}
    topk = [[20 + 10 * row + column for column in range(best)] for row in range(4)]
    width = max(best, 3)
    ids, valid = int64([[0] * (1 + width)] * 4), torch.zeros(4, 1 + width, dtype=torch.bool).npu()
    sampled_ids = [61, 62, 63, 64]
    listed = [(wanted.get(row, []) + [99] * 3)[:3] for row in range(MAX_REQUESTS)]
    counts = [len(wanted.get(row, [])) for row in range(MAX_REQUESTS)]
    samples.fill_logprob_token_ids[(4,)](
        ids, 1 + width, valid, 1 + width, int64(sampled_ids), int32(topk) if best else int32(listed), best, int64(ROWS),
        int32(counts), int32(listed), 3, NUM_TOPK=best, PADDED_COLS=4,
    )  # fmt: skip
    for index, row in enumerate(ROWS):
        tokens = [sampled_ids[index], *(wanted[row] or topk[index])]
        assert ids.cpu()[index].tolist() == tokens + [0] * (1 + width - len(tokens))
        assert valid.cpu()[index].tolist() == [column < len(tokens) for column in range(1 + width)]


def test_tokens_that_prompt_logprobs_are_of() -> None:
    tokens = [[100 * row + column for column in range(WIDTH)] for row in range(MAX_REQUESTS)]
    computed, lengths = [0, 0, 0, 6, 0, 3, 9], [4, 1, 3, 2]
    starts = [sum(lengths[:index]) for index in range(5)]
    found = int64([-1] * starts[-1])
    samples.prompt_logprobs_token_ids[(4,)](
        found, int32(starts), int64(ROWS), int32(computed), int32(tokens), WIDTH, BLOCK_SIZE=1024
    )
    expected = [
        tokens[row][computed[row] + offset + 1]
        for row, length in zip(ROWS, lengths, strict=True)
        for offset in range(length)
    ]
    assert found.cpu().tolist() == expected
