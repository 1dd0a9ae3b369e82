"""For each kernel of kernels/: arguments of a typical decode step, and the bytes that nobody could do without.

The minimum counts every byte of the arguments and results that the operator has to look at once, read or written, as if
one core did it all; a kernel moves more when it reads something twice or on several cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

CORES = 40
"""Vector cores of an Ascend910B3."""
REQUESTS = 64
DRAFTS = 3
VOCABULARY = 151_936
DTYPES = {"float": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """Arguments of an operator, new ones at every call of the function that makes it, but always the same values.

    Attributes:
        size: in words, for the table.
        elements: what vector instructions are counted per.
        minimum: bytes.
        arguments: of the package's `launch` and `reference`.
        written: those arguments that are results.
        operator: suffix of `launch` and `reference` in packages with more than one operator.
    """

    size: str
    elements: int
    minimum: int
    arguments: tuple[Any, ...]
    written: tuple[torch.Tensor, ...] = ()
    operator: str = ""

    def function(self, name: str) -> str:
        return name + self.operator


CASES: dict[str, Callable[[str], Case]] = {}
"""By kernel: the case of one of its entries."""


def case(make: Callable[[str], Case]) -> Callable[[str], Case]:
    """Registers the case of the kernel that the function is named after."""
    CASES[make.__name__] = make
    return make


def check(kernels: Mapping[str, object]) -> None:
    """Every kernel has a case and every case a kernel.

    Raises:
        ValueError: which are missing.
    """
    if missing := sorted(kernels.keys() - CASES.keys()):
        raise ValueError(f"benchmarks/kernel_cases.py has no case for {', '.join(missing)}")
    if unknown := sorted(CASES.keys() - kernels.keys()):
        raise ValueError(f"benchmarks/kernel_cases.py has cases of kernels that are no more: {', '.join(unknown)}")


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _logits(entry: str, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(REQUESTS, VOCABULARY, generator=generator).mul_(3).to(DTYPES[entry.rpartition("_")[2]])


def _integers(generator: torch.Generator, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=generator).to(dtype)


@case
def apply_grammar_bitmask(entry: str) -> Case:
    generator = _random()
    logits = _logits(entry, generator)
    bitmask = _integers(generator, 2**32, REQUESTS, VOCABULARY // 32, dtype=torch.int64).sub_(2**31).to(torch.int32)
    # Each logit is read and written, each bit read.
    minimum = 2 * logits.nbytes + bitmask.nbytes
    return Case(f"{REQUESTS} × {VOCABULARY:,}", logits.numel(), minimum, (logits, bitmask, None), (logits,))


@case
def apply_penalties(entry: str) -> Case:
    generator = _random()
    logits = _logits(entry, generator)
    ids = [_integers(generator, VOCABULARY, REQUESTS, count, dtype=torch.int64) for count in (800, 200)]
    penalties = [torch.full((REQUESTS,), value) for value in (0.5, 0.1, 1.2)]
    # Each logit is read and written, each id and penalty read. (Only 1,000 logits of a row change; a kernel that knew
    # them beforehand would move less.)
    minimum = 2 * logits.nbytes + sum(tensor.nbytes for tensor in (*ids, *penalties))
    size = f"{REQUESTS} × {VOCABULARY:,}, 1,000 ids each"
    return Case(size, logits.numel(), minimum, (logits, *ids, *penalties), (logits,))


@case
def min_p_temperature(entry: str) -> Case:
    logits = _logits(entry, _random())
    temperature, min_p = torch.full((REQUESTS,), 0.7), torch.full((REQUESTS,), 0.05)
    # Each logit is read and written: a row's maximum is known only after all of it, and a row is larger than a core's
    # unified buffer, but not than all of them together.
    minimum = 2 * logits.nbytes + temperature.nbytes + min_p.nbytes
    return Case(f"{REQUESTS} × {VOCABULARY:,}", logits.numel(), minimum, (logits, temperature, min_p), (logits,))


@case
def token_logprob_and_rank(entry: str) -> Case:
    generator, columns = _random(), 21
    logits = _logits(entry, generator)
    tokens = _integers(generator, VOCABULARY, REQUESTS, columns, dtype=torch.int64)
    # Each logit and each token id is read; a float32 for each id and an int64 for each row are written.
    minimum = logits.nbytes + tokens.nbytes + REQUESTS * (columns * 4 + 8)
    return Case(f"{REQUESTS} × {VOCABULARY:,}, {columns} tokens each", logits.numel(), minimum, (logits, tokens))


@case
def sample_recovered_tokens(entry: str) -> Case:
    generator, requests = _random(), 16
    tokens = requests * DRAFTS
    ends = torch.arange(DRAFTS, tokens + 1, DRAFTS, dtype=torch.int32)
    drafts = _integers(generator, VOCABULARY, tokens)
    draft_probs, target_probs = (
        torch.randn(tokens, VOCABULARY, generator=generator).mul_(3).softmax(1) for _ in range(2)
    )
    q = torch.empty(requests, VOCABULARY).exponential_(generator=generator)
    # Both probabilities and q are read once; with draft probabilities the draft tokens themselves are not needed.
    minimum = draft_probs.nbytes + target_probs.nbytes + q.nbytes + ends.nbytes + tokens * 4
    size = f"{requests} × {DRAFTS} drafts × {VOCABULARY:,}"
    return Case(size, target_probs.numel(), minimum, (ends, drafts, draft_probs, target_probs, q))


@case
def rejection_sample(entry: str) -> Case:
    generator, tokens = _random(), REQUESTS * DRAFTS
    ends = torch.arange(DRAFTS, tokens + 1, DRAFTS, dtype=torch.int32)
    drafts, recovered = (_integers(generator, VOCABULARY, tokens) for _ in range(2))
    # Only the probabilities of the draft tokens are looked at; three of four drafts stay.
    target_probs = torch.full((tokens, VOCABULARY), 0.3)
    draft_probs = torch.full((tokens, VOCABULARY), 0.4)
    bonus = _integers(generator, VOCABULARY, REQUESTS)
    uniform = torch.rand(tokens, dtype=torch.float64, generator=generator)
    temperature = torch.full((REQUESTS,), 0.7)
    # Vectors are read once, two probabilities for each draft token, and a bonus token where all draft tokens stay; the
    # output is written.
    complete = int((uniform <= 0.3 / 0.4).view(REQUESTS, DRAFTS).all(1).sum())
    vectors = sum(tensor.nbytes for tensor in (ends, drafts, recovered, uniform, temperature))
    minimum = vectors + tokens * 2 * 4 + complete * 4 + REQUESTS * (DRAFTS + 1) * 4
    arguments = (ends, drafts, draft_probs, target_probs, None, bonus, recovered, uniform, temperature, None, DRAFTS)
    return Case(f"{REQUESTS} × {DRAFTS} drafts", tokens, minimum, arguments)


@case
def compute_slot_mapping(entry: str) -> Case:
    generator, capacity = _random(), 512
    starts = torch.arange(REQUESTS + 1, dtype=torch.int32)
    positions = _integers(generator, 32768, REQUESTS, dtype=torch.int64)
    table = _integers(generator, 10000, REQUESTS, 256)
    slots = torch.zeros(capacity, dtype=torch.int64)
    # One block number per token; every slot, padding included, is written.
    minimum = starts.nbytes + positions.nbytes + REQUESTS * 4 + slots.nbytes
    size = f"{REQUESTS} tokens, padded to {capacity}"
    return Case(size, capacity, minimum, (starts, positions, table, 128, slots), (slots,))


@case
def masked_vocabulary_index(entry: str) -> Case:
    dtype = torch.int64 if entry.endswith("int64") else torch.int32
    ids = _integers(_random(), VOCABULARY, REQUESTS, dtype=dtype)
    # An id is read, a row in int64 and a flag are written.
    minimum = ids.nbytes + REQUESTS * 9
    arguments = (ids, 0, VOCABULARY // 2, 0, VOCABULARY, VOCABULARY)
    return Case(f"{REQUESTS} ids, one range", REQUESTS, minimum, arguments)


@case
def eagle_prepare_inputs_padded(entry: str) -> Case:
    sums = torch.arange(DRAFTS, REQUESTS * DRAFTS + 1, DRAFTS, dtype=torch.int32)
    valid = _integers(_random(), DRAFTS + 1, REQUESTS) + 1
    starts = torch.arange(0, (REQUESTS + 1) * (DRAFTS + 1), DRAFTS + 1, dtype=torch.int32)
    indices, rejected = (torch.zeros(REQUESTS, dtype=torch.int32) for _ in range(2))
    # Three numbers are read per request and two written.
    arguments = (sums, valid, starts, indices, rejected)
    return Case(f"{REQUESTS} requests", REQUESTS, REQUESTS * 20, arguments, (indices, rejected))


@case
def eagle_prepare_next_token_padded(entry: str) -> Case:
    generator, columns = _random(), DRAFTS + 1
    sampled = _integers(generator, VOCABULARY + 1, REQUESTS, columns) - 1
    discard = torch.rand(REQUESTS, generator=generator) < 0.1
    backup = _integers(generator, VOCABULARY, REQUESTS)
    following, counts = (torch.zeros(REQUESTS, dtype=torch.int32) for _ in range(2))
    # Sampled tokens, flags and backup tokens are read; two numbers are written per request.
    minimum = sampled.nbytes + discard.nbytes + backup.nbytes + following.nbytes + counts.nbytes
    arguments = (sampled, discard, backup, following, counts, VOCABULARY)
    return Case(f"{REQUESTS} × {columns} tokens", sampled.numel(), minimum, arguments, (following, counts))


@case
def eagle_step_metadata(entry: str) -> Case:
    generator, padded = _random(), 2 * REQUESTS
    positions = _integers(generator, 32768, REQUESTS, dtype=torch.int64)
    table = _integers(generator, 10000, REQUESTS, 256)
    lengths = positions.to(torch.int32) + 1
    following, slots = torch.zeros(REQUESTS, dtype=torch.int64), torch.zeros(padded, dtype=torch.int64)
    # Position, length and one block number are read per request; position, length and slot are written.
    minimum = positions.nbytes + 2 * lengths.nbytes + REQUESTS * 4 + following.nbytes + slots.nbytes
    arguments = (positions, table, lengths, 128, 32768, following, slots)
    size = f"{REQUESTS} requests, padded to {padded}"
    return Case(size, padded, minimum, arguments, (lengths, following, slots))


LAYERS, BLOCKS, BLOCK = 32, 8, 16 * 8 * 128
"""Tensors, blocks of each, and bfloat16 elements of a block: 16 tokens, 8 heads of 128."""


@case
def copy_blocks(entry: str) -> Case:
    generator = _random()
    caches = [torch.randn(2 * BLOCKS, BLOCK, generator=generator).to(torch.bfloat16) for _ in range(LAYERS)]
    elements = LAYERS * BLOCKS * BLOCK
    if entry.endswith("int32"):
        # As ranges of memory: each byte is read and written, addresses and a size are read per range.
        sources, destinations = (
            torch.tensor([cache[first + block].data_ptr() for cache in caches for block in range(BLOCKS)])
            for first in (0, BLOCKS)
        )
        sizes = torch.full((LAYERS * BLOCKS,), BLOCK * 2, dtype=torch.int32)
        minimum = 2 * elements * 2 + sources.nbytes + destinations.nbytes + sizes.nbytes
        arguments = (caches, sources, destinations, sizes)
        size = f"{LAYERS * BLOCKS} ranges of {BLOCK * 2 // 1024} KiB"
        return Case(size, elements, minimum, arguments, tuple(caches), "_memory")
    origins = torch.randperm(BLOCKS, generator=generator)
    mapping = torch.stack([origins, torch.arange(BLOCKS, 2 * BLOCKS)], 1)
    # Each byte is read and written; five numbers are read per tensor and two per block.
    minimum = 2 * elements * 2 + LAYERS * 5 * 8 + mapping.nbytes
    size = f"{LAYERS} tensors × {BLOCKS} blocks of {BLOCK * 2 // 1024} KiB"
    return Case(size, elements, minimum, (caches, caches, mapping), tuple(caches))


@case
def zero_blocks(entry: str) -> Case:
    caches = [torch.ones(2 * BLOCKS, BLOCK, dtype=torch.bfloat16) for _ in range(LAYERS)]
    words = torch.full((LAYERS,), BLOCK * 2 // 4)
    addresses = torch.tensor([cache.data_ptr() for cache in caches])
    blocks = torch.arange(0, 2 * BLOCKS, 2)
    elements = LAYERS * BLOCKS * BLOCK
    # Each byte is written; three numbers are read per segment and one per block.
    minimum = elements * 2 + 3 * addresses.nbytes + blocks.nbytes
    size = f"{LAYERS} segments × {BLOCKS} blocks of {BLOCK * 2 // 1024} KiB"
    return Case(size, elements, minimum, (caches, addresses, words, words.clone(), blocks), tuple(caches))


ADAPTERS, RANK, HIDDEN = 4, 16, 4096


def _adapters(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Adapter of each token, and the order that puts tokens with the same one side by side."""
    mapping = torch.arange(REQUESTS, dtype=torch.int32)[torch.randperm(REQUESTS, generator=generator)] % ADAPTERS
    return mapping, mapping.argsort(stable=True).to(torch.int32)


def _lora_size(output: str) -> str:
    return f"{REQUESTS} tokens, {ADAPTERS} adapters, {output}"


@case
def lora_shrink(entry: str) -> Case:
    generator, dtype = _random(), DTYPES[entry.rpartition("_")[2]]
    inputs = torch.randn(REQUESTS, HIDDEN, generator=generator).to(dtype)
    weight = torch.randn(ADAPTERS, 1, RANK, HIDDEN, generator=generator).div_(HIDDEN**0.5).to(dtype)
    output = torch.zeros(1, REQUESTS, RANK)
    mapping, order = _adapters(generator)
    # Inputs and every adapter are read once, however many tokens use it, and the output is written.
    minimum = inputs.nbytes + weight.nbytes + 8 + mapping.nbytes + order.nbytes + output.nbytes
    arguments = (inputs, [weight], output, mapping, order, 1.0)
    return Case(_lora_size(f"{HIDDEN} → {RANK}"), REQUESTS * HIDDEN * RANK, minimum, arguments, (output,))


@case
def lora_expand(entry: str) -> Case:
    generator, dtype = _random(), DTYPES[entry.rpartition("_")[2]]
    inputs = torch.randn(1, REQUESTS, RANK, generator=generator)
    weight = torch.randn(ADAPTERS, 1, HIDDEN, RANK, generator=generator).div_(RANK**0.5).to(dtype)
    output = torch.randn(REQUESTS, HIDDEN, generator=generator).to(dtype)
    mapping, order = _adapters(generator)
    # Inputs and every adapter are read once, however many tokens use it; the output is read and written.
    minimum = inputs.nbytes + weight.nbytes + 3 * 8 + mapping.nbytes + order.nbytes + 2 * output.nbytes
    arguments = (inputs, [weight], output, mapping, order, 0, True)
    return Case(_lora_size(f"{RANK} → {HIDDEN}"), REQUESTS * HIDDEN * RANK, minimum, arguments, (output,))
