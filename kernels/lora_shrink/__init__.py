"""LoRA's first product, from the hidden size to the rank, for tokens with different adapters.

Cost: the least is rank * hidden elements of A per adapter and slice, the inputs once and 4 * rank bytes of output per
token and slice. A is read once per 8 tokens that share an adapter (for up to 8 such tokens the minimum), the inputs
once per slice and part of the ranks. Vector instructions per 64 elements of A: 1 for 16 bits, and 2 per token. It
replaces 11 launches for one slice and 27 for three (the same in PyTorch, by hostcann's trace), which copy A for every
token; stock vLLM needs Triton.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ascend_patch.kernels import addresses, loading, operators
from ascend_patch.kernels.arguments import LARGEST_INT32, expect
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="lora_shrink",
    why="One launch for all slices in the place of vLLM's Triton kernel, which needs Triton for NPUs.",
    replaces=11,
    entries=("lora_shrink_float", "lora_shrink_half", "lora_shrink_bfloat16"),
    parameters=("ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "f32"),
)

TOKENS = 8
"""Tokens that one core takes at a time (kTokens in the source)."""
RANKS = 64
"""Ranks that one core takes at a time at most (kRanks in the source)."""
ENTRIES = dict(zip((torch.float32, torch.float16, torch.bfloat16), KERNEL.entries, strict=True))


def check(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    output: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_order: torch.Tensor | None,
    scale: float,
) -> None:
    """Raises what the operator refuses; adapters and the order are on the device and not looked at.

    Raises:
        TypeError: a dtype.
        ValueError: shapes that do not belong together, or a layout.
    """
    name = KERNEL.name
    expect(name, "inputs", inputs, tuple(ENTRIES), 2)
    expect(name, "output", output, torch.float32, 3)
    tokens, hidden = inputs.shape
    expect(name, "token_lora_mapping", token_lora_mapping, torch.int32, 1, at_least=tokens)
    if token_order is not None:
        expect(name, "token_order", token_order, torch.int32, 1, at_least=tokens)
    rank = output.shape[2]
    if output.shape[:2] != (len(weights), tokens):
        raise ValueError(f"{name}: output is {list(output.shape)}, it must be [{len(weights)}, {tokens}, rank]")
    for place, weight in enumerate(weights):
        if weight.dtype != inputs.dtype:
            raise TypeError(f"{name}: slice {place} is {weight.dtype}, the inputs are {inputs.dtype}")
        shape = list(weight.shape)
        if shape not in ([shape[0], rank, hidden], [shape[0], 1, rank, hidden]) or not weight.is_contiguous():
            raise ValueError(
                f"{name}: slice {place} is {shape}, it must be [adapters, 1, {rank}, {hidden}], contiguous"
            )
    if rank * hidden > LARGEST_INT32:
        raise ValueError(f"{name}: an adapter of {rank} x {hidden} elements is more than int32 counts")


def reference(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    output: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_order: torch.Tensor | None,
    scale: float,
) -> None:
    """The same in PyTorch."""
    tokens, hidden = inputs.shape
    mapping = token_lora_mapping[:tokens].long()
    chosen = mapping.clamp(min=0)
    column = inputs.float().unsqueeze(2)
    for place, weight in enumerate(weights):
        matrices = weight.view(weight.shape[0], -1, hidden).index_select(0, chosen).float()
        product = torch.bmm(matrices, column).squeeze(2) * scale
        output[place] = product.masked_fill((mapping < 0).unsqueeze(1), 0.0)


def launch(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    output: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_order: torch.Tensor | None,
    scale: float,
) -> None:
    """One launch; units are 8 tokens of one slice, and few ranks if there would be fewer units than cores."""
    tokens, hidden = inputs.shape
    slices, _, rank = output.shape
    if not output.numel():
        return
    cores = loading.vector_cores()
    groups = slices * -(-tokens // TOKENS)
    ranks = min(RANKS, -(-rank // max(1, cores // groups)))
    loading.launch(
        KERNEL,
        ENTRIES[inputs.dtype],
        min(cores, groups * -(-rank // ranks)),
        inputs,
        addresses.table(tuple((weight.data_ptr(),) for weight in weights), inputs.device),
        output,
        token_lora_mapping,
        token_order,
        tokens,
        slices,
        rank,
        hidden,
        ranks,
        scale,
    )


def fake(
    inputs: torch.Tensor,
    weights: Sequence[torch.Tensor],
    output: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_order: torch.Tensor | None,
    scale: float,
) -> None:
    """Nothing to allocate: the result is an argument."""


lora_shrink = operators.define(
    KERNEL,
    "lora_shrink(Tensor inputs, Tensor[] weights, Tensor(a!) output, Tensor token_lora_mapping, Tensor? token_order, "
    "float scale) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Fills `output` with ``scale * inputs @ A.T`` of each token's adapter, for every slice; zeros without an adapter.

The arguments are those of `lora_shrink` as ``PunicaWrapperGPU.add_shrink`` (``vllm/lora/punica_wrapper``) calls it,
less the tables by adapter of its `LoRAKernelMeta`. A caller heeds ``no_lora_flag_cpu`` first: with it, vLLM leaves the
mapping as it was. Without `token_order` this is bgmv, with it sgmv.

Args:
    inputs: ``[tokens, hidden]`` float32, float16 or bfloat16, contiguous.
    weights: one per slice, ``[adapters, 1, rank, hidden]`` or without the 1, of the inputs' dtype (``lora_a_stacked``).
    output: ``[slices, tokens, rank]`` float32, contiguous; what it held does not count. Sums are in float32.
    token_lora_mapping: ``[at least tokens]`` int32: each token's adapter, negative for none.
    token_order: ``[at least tokens]`` int32, a permutation that puts tokens with the same adapter side by side
        (``token_indices_sorted_by_lora_ids``), or None.
    scale: factor of the result.
"""
