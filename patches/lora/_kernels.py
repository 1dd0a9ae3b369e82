"""What vLLM's Punica wrapper calls, on our kernels. Imported once that module has executed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta

from ascend_patch.kernels.lora_expand import lora_expand as _lora_expand
from ascend_patch.kernels.lora_shrink import lora_shrink as _lora_shrink

__all__ = ["LoRAKernelMeta", "early_lora_expand", "early_lora_shrink", "lora_expand", "lora_shrink"]


def lora_shrink(
    inputs: torch.Tensor,
    lora_a_weights: Sequence[torch.Tensor],
    output_tensor: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_indices_sorted_by_lora_ids: torch.Tensor,
    num_tokens_per_lora: torch.Tensor,
    lora_token_start_loc: torch.Tensor,
    lora_ids: torch.Tensor,
    no_lora_flag_cpu: torch.Tensor,
    num_active_loras: torch.Tensor | None,
    scaling: float,
) -> None:
    """``output = scaling * inputs @ A.T`` of each token's adapter; zeros where no token has one.

    Args:
        inputs: ``[tokens, hidden_size]``.
        lora_a_weights: one per slice, ``[adapters, 1, rank, hidden_size]``.
        output_tensor: ``[slices, tokens, rank]`` float32.
        token_lora_mapping: ``[at least tokens]`` int32, -1 for no adapter. The tables after it, up to `lora_ids`, are
            Triton's; only the order of the tokens serves our kernel, too.
        no_lora_flag_cpu: ``[1]`` bool on the host; when it is set, the mapping is that of an earlier step.
    """
    if no_lora_flag_cpu.item():
        output_tensor.zero_()
        return
    _lora_shrink(
        inputs, list(lora_a_weights), output_tensor, token_lora_mapping, token_indices_sorted_by_lora_ids, scaling
    )


def lora_expand(
    inputs: torch.Tensor,
    lora_b_weights: Sequence[torch.Tensor],
    output_tensor: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    token_indices_sorted_by_lora_ids: torch.Tensor,
    num_tokens_per_lora: torch.Tensor,
    lora_token_start_loc: torch.Tensor,
    lora_ids: torch.Tensor,
    no_lora_flag_cpu: torch.Tensor,
    num_active_loras: torch.Tensor | None,
    offset_start: int = 0,
    add_inputs: bool = False,
) -> None:
    """``output[:, slice] += inputs[slice] @ B.T`` of each token's adapter, or ``=`` without `add_inputs`.

    Args:
        inputs: ``[slices, tokens, rank]`` float32; what is behind the first `rank` numbers is not read.
        lora_b_weights: one per slice, ``[adapters, 1, width, rank]``.
        output_tensor: ``[tokens, columns]``.
        offset_start: first column of the first slice.
    """
    if no_lora_flag_cpu.item():
        return
    rank = lora_b_weights[0].shape[-1]
    if inputs.shape[-1] > rank:
        # vLLM 0.23 gathers what each tensor-parallel rank has whole, and its own kernel reads the first one's.
        inputs = inputs[..., :rank].contiguous()
    _lora_expand(
        inputs,
        list(lora_b_weights),
        output_tensor,
        token_lora_mapping,
        token_indices_sorted_by_lora_ids,
        offset_start,
        add_inputs,
    )


_BEFORE_THE_COUNT = 9


def _without_count(function: Callable[..., None]) -> Callable[..., None]:
    """The same for vLLM up to 0.15, which does not count the active adapters; nor do we look at the count."""

    def early(*arguments: Any, **options: Any) -> None:
        function(*arguments[:_BEFORE_THE_COUNT], None, *arguments[_BEFORE_THE_COUNT:], **options)

    return early


early_lora_shrink = _without_count(lora_shrink)
early_lora_expand = _without_count(lora_expand)
