"""LoRA's second product, from the rank to the output, for tokens with different adapters.

Cost: the least is width * rank elements of B per adapter and slice, the inputs once, and the output's columns once in
and once out. B is read once per 8 tokens that share an adapter (for up to 8 such tokens the minimum), the inputs once
per tile of rows. Vector instructions per 64 elements of B: 1 for 16 bits, and 2 to 2.2 per token. Ranks that are no
power of two are computed as the next one. It replaces 11 launches for one slice and 27 for three (the same in PyTorch,
by hostcann's trace), which copy B for every token; stock vLLM needs Triton.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ascend_patch.kernels import addresses, loading, operators
from ascend_patch.kernels.arguments import expect
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="lora_expand",
    why="One launch for all slices in the place of vLLM's Triton kernel, which needs Triton for NPUs.",
    replaces=11,
    entries=("lora_expand_float", "lora_expand_half", "lora_expand_bfloat16"),
    parameters=(
        *("ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"),
        *("i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32", "i32"),
    ),
)

TOKENS = 8
"""Tokens that one core takes at a time (kTokens in the source)."""
TILE = 8192
"""Elements of B that one core takes at a time, padding included (kTile in the source)."""
RANK = 512
"""The largest rank (kRank in the source), which is vLLM's too."""
ENTRIES = dict(zip((torch.float32, torch.float16, torch.bfloat16), KERNEL.entries, strict=True))


def check(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    output: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_order: torch.Tensor | None,
    offset: int,
    add: bool,
) -> None:
    """Raises what the operator refuses; adapters and the order are on the device and not looked at.

    Raises:
        TypeError: a dtype.
        ValueError: shapes that do not belong together, slices beyond the output, a rank above 512, or a layout.
    """
    name = KERNEL.name
    expect(name, "output", output, tuple(ENTRIES), 2)
    expect(name, "inputs", inputs, (torch.float32, output.dtype), 3)
    slices, tokens, rank = inputs.shape
    expect(name, "token_lora_mapping", token_lora_mapping, torch.int32, 1, at_least=tokens)
    if token_order is not None:
        expect(name, "token_order", token_order, torch.int32, 1, at_least=tokens)
    if output.shape[0] != tokens or slices != len(weights):
        raise ValueError(
            f"{name}: inputs of {slices} slices and {tokens} tokens, {len(weights)} weights, {output.shape[0]} rows of "
            "output"
        )
    if not 1 <= rank <= RANK:
        raise ValueError(f"{name}: the rank is {rank}, it must be 1 to {RANK}")
    for place, weight in enumerate(weights):
        if weight.dtype != output.dtype:
            raise TypeError(f"{name}: slice {place} is {weight.dtype}, the output is {output.dtype}")
        shape = list(weight.shape)
        if len(shape) not in (3, 4) or shape[1:-2] not in ([], [1]) or shape[-1] != rank or not weight.is_contiguous():
            raise ValueError(f"{name}: slice {place} is {shape}, it must be [adapters, 1, width, {rank}], contiguous")
    end = offset + sum(weight.shape[-2] for weight in weights)
    if offset < 0 or end > output.shape[1]:
        raise ValueError(f"{name}: the slices are columns [{offset}, {end}) of an output of {output.shape[1]}")


def reference(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    output: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_order: torch.Tensor | None,
    offset: int,
    add: bool,
) -> None:
    """The same in PyTorch."""
    _, tokens, rank = inputs.shape
    mapping = token_lora_mapping[:tokens].long()
    chosen = mapping.clamp(min=0)
    without = (mapping < 0).unsqueeze(1)
    for values, weight in zip(inputs.float(), weights, strict=True):
        width = weight.shape[-2]
        matrices = weight.view(-1, width, rank).index_select(0, chosen).float()
        product = torch.bmm(matrices, values.unsqueeze(2)).squeeze(2)
        columns = output[:, offset : offset + width]
        result = (product + columns.float() if add else product).to(output.dtype)
        columns.copy_(torch.where(without, columns, result))
        offset += width


def pitch_of(rank: int, size: int) -> int:
    """Elements from one row of B to the next in the unified buffer: a power of two; padded rows start on 32 bytes."""
    pitch = max(8, 1 << (rank - 1).bit_length())
    return pitch if pitch == rank else max(pitch, 32 // size)


def launch(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    output: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_order: torch.Tensor | None,
    offset: int,
    add: bool,
) -> None:
    """One launch; units are 8 tokens and a tile of rows, smaller tiles if there would be fewer units than cores."""
    slices, tokens, rank = inputs.shape
    widths = [weight.shape[-2] for weight in weights]
    longest = max(widths, default=0)
    if not tokens or not longest:
        return
    cores = loading.vector_cores()
    groups = slices * -(-tokens // TOKENS)
    pitch = pitch_of(rank, output.element_size())
    # Tiles of fewer than 64 rows are more overhead than work; whole blocks of 8 rows keep the transfers long.
    rows = min(TILE // pitch, max(64, -(-longest * groups // cores // 8) * 8))
    rows = min(rows, TILE // pitch)
    tiles = -(-longest // rows)
    described, begin = [], offset
    for weight, width in zip(weights, widths, strict=True):
        described.append((weight.data_ptr(), width, begin))
        begin += width
    loading.launch(
        KERNEL,
        ENTRIES[output.dtype],
        min(cores, groups * tiles),
        inputs,
        *addresses.table(tuple(described), output.device).unbind(0),
        output,
        token_lora_mapping,
        token_order,
        tokens,
        slices,
        rank,
        pitch,
        rows,
        tiles,
        output.shape[1],
        int(inputs.dtype != torch.float32),
        int(add),
    )


def fake(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    output: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_order: torch.Tensor | None,
    offset: int,
    add: bool,
) -> None:
    """Nothing to allocate: the result is an argument."""


lora_expand = operators.define(
    KERNEL,
    "lora_expand(Tensor inputs, Tensor[] weights, Tensor(a!) output, Tensor token_lora_mapping, Tensor? token_order, "
    "int offset, bool add) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Adds ``inputs @ B.T`` of each token's adapter to its columns of `output`, slice behind slice.

The arguments are those of `lora_expand` as ``PunicaWrapperGPU.add_expand`` (``vllm/lora/punica_wrapper``) calls it,
less the tables by adapter of its `LoRAKernelMeta`. A caller heeds ``no_lora_flag_cpu`` first: with it, vLLM leaves the
mapping as it was. Without `token_order` this is bgmv, with it sgmv.

Args:
    inputs: ``[slices, tokens, rank]`` float32 (what `lora_shrink` fills) or of the output's dtype, contiguous.
    weights: one per slice, ``[adapters, 1, width, rank]`` or without the 1, of the output's dtype (``lora_b_stacked``).
    output: ``[tokens, columns]`` float32, float16 or bfloat16, contiguous. Sums are in float32, rounded once.
    token_lora_mapping: ``[at least tokens]`` int32: each token's adapter, negative for none: its row stays as it is.
    token_order: ``[at least tokens]`` int32, a permutation that puts tokens with the same adapter side by side
        (``token_indices_sorted_by_lora_ids``), or None.
    offset: first column of the first slice (``offset_start``).
    add: False to overwrite the columns instead.
"""
