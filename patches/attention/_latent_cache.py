"""Where the latent KV cache keeps what; the names of vLLM's layers and operators lead here."""

from __future__ import annotations

import torch
from vllm.forward_context import get_forward_context

from ascend_patch import npu


def planes(kv_cache: torch.Tensor, latent_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The latent and the rotated vectors of a layer's cache, each contiguous.

    vLLM's blocks of rows are only the memory: all latent vectors come first, all rotated ones behind them.

    Args:
        kv_cache: ``[num_blocks, block_size, latent_size + rope_size]``, contiguous.

    Returns:
        ``[num_blocks, block_size, latent_size]`` and ``[num_blocks, block_size, rope_size]``.
    """
    if not kv_cache.is_contiguous():
        raise RuntimeError(
            f"The KV cache of this layer is not contiguous (shape {tuple(kv_cache.shape)}, strides"
            f" {kv_cache.stride()}), so that ascend_patch cannot keep latent and rotated keys apart in it."
        )
    blocks, block_size, width = kv_cache.shape
    flat, border = kv_cache.view(-1), blocks * block_size * latent_size
    return flat[:border].view(blocks, block_size, latent_size), flat[border:].view(
        blocks, block_size, width - latent_size
    )


def concat_and_cache_mla(
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kv_cache_dtype: str,
    scale: torch.Tensor,
    skip_scale: bool = False,
) -> None:
    """Write this step's latent and rotated vectors.

    Args:
        kv_c: ``[num_tokens, 512]``.
        k_pe: ``[num_tokens, 64]``.
        kv_cache: ``[num_blocks, block_size, 576]``.
        slot_mapping: ``[num_tokens]``, -1 for padding.
    """
    batches = get_forward_context().attn_metadata
    if not batches:  # a run without requests
        return
    # Padding has no slot, which the operator refuses; every batch of the step has as many tokens.
    tokens = next(iter(batches.values())).num_actual_tokens
    latents, ropes = planes(kv_cache, kv_c.shape[1])
    npu.scatter_kv_cache(
        kv_c[:tokens].unsqueeze(1),
        k_pe[:tokens].unsqueeze(1),
        latents.unsqueeze(2),
        ropes.unsqueeze(2),
        slot_mapping[:tokens],
    )
