"""Multi-head latent attention (MLA) as vLLM's layers and model runner see it.

vLLM gives a layer one tensor of ``[num_blocks, block_size, 576]``. The NPU's operator wants the latent vectors (512)
and the rotated ones (64) contiguous each, so the layer's memory holds two planes, one after the other: a block's bytes
do not lie together. New tokens of a prompt attend to keys and values that are multiplied out; what is in the cache
already is multiplied out in chunks and merged in. Tokens that follow one at a time attend to the latent vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from vllm.config import VllmConfig
from vllm.v1.attention.backends.utils import split_decodes_and_prefills
from vllm.v1.kv_cache_interface import AttentionSpec

from ascend_patch import npu
from ascend_patch.patches.attention._backend import AscendMetadataBuilder
from ascend_patch.patches.attention._context import ContextChunk, plan
from ascend_patch.patches.attention._interface import CommonAttentionMetadata
from ascend_patch.patches.attention._latent_cache import planes
from ascend_patch.patches.attention._latent_interface import (
    MLAAttentionImpl,
    MLACommonBackend,
    MLACommonMetadataBuilder,
)
from ascend_patch.patches.attention._layout import KV_BLOCK_SIZE


class AscendLatentBackend(MLACommonBackend):
    """vLLM's description of MLA, with the NPU's types and block size."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.bfloat16, torch.float16]
    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto", "float16", "bfloat16"]
    accept_output_buffer = True

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[AscendLatentImpl]:
        return AscendLatentImpl

    @staticmethod
    def get_builder_cls() -> type[AscendLatentMetadataBuilder]:
        return AscendLatentMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int]:
        return [KV_BLOCK_SIZE]

    @classmethod
    def get_preferred_block_size(cls, default_block_size: int) -> int:
        return KV_BLOCK_SIZE


@dataclass(slots=True)
class DecodeBatch:
    """The requests with one new token each.

    Attributes:
        block_table: ``[num_requests, max_blocks]`` int32.
        kv_lens: context length of each request including this step, on the host.
    """

    block_table: torch.Tensor
    kv_lens: list[int]


@dataclass(slots=True)
class PrefillBatch:
    """The requests with several new tokens.

    Attributes:
        query_ends: cumulative query lengths, one per request, on the host.
        context: what these requests have in the cache already, in chunks.
        chunked_context: nothing in vLLM's own form.
    """

    query_ends: list[int]
    context: list[ContextChunk] = field(default_factory=list)
    chunked_context: None = None


@dataclass(slots=True)
class AscendLatentMetadata:
    """One batch: first `num_decodes` requests with one token each, then `num_prefills` with several."""

    num_actual_tokens: int
    slot_mapping: torch.Tensor
    num_decodes: int
    num_decode_tokens: int
    num_prefills: int
    decode: DecodeBatch | None
    prefill: PrefillBatch | None


class AscendLatentMetadataBuilder(AscendMetadataBuilder):
    # vLLM sorts the batch: requests with more new tokens than this come last.
    reorder_batch_threshold: int = 1

    def __init__(
        self, kv_cache_spec: AttentionSpec, layer_names: list[str], vllm_config: VllmConfig, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        # vLLM's profiling run sets memory aside for the keys and values of this many tokens.
        self._context_rows = MLACommonMetadataBuilder.determine_chunked_prefill_workspace_size(vllm_config)

    def _build(self, common: CommonAttentionMetadata, host_lens: torch.Tensor | None) -> Any:
        batch = super()._build(common, host_lens)
        decodes, prefills, decode_tokens, _ = split_decodes_and_prefills(common, decode_threshold=1)
        decode = prefill = None
        if decodes:
            decode = DecodeBatch(batch.block_table[:decodes], batch.kv_lens[:decodes])
        if prefills:
            ends = [end - decode_tokens for end in batch.query_ends[decodes:]]
            starts = [0, *ends[:-1]]
            contexts = [
                kv - (end - start) for kv, start, end in zip(batch.kv_lens[decodes:], starts, ends, strict=True)
            ]
            prefill = PrefillBatch(
                ends, plan(contexts, ends, batch.block_table[decodes:], batch.block_size, self._context_rows)
            )
        return AscendLatentMetadata(
            num_actual_tokens=batch.num_actual_tokens,
            slot_mapping=batch.slot_mapping,
            num_decodes=decodes,
            num_decode_tokens=decode_tokens,
            num_prefills=prefills,
            decode=decode,
            prefill=prefill,
        )


class AscendLatentImpl(MLAAttentionImpl[AscendLatentMetadata]):
    """MLA of one layer; vLLM's layer folds the keys' up-projection into the query of `forward_mqa`, and unfolds values.

    Raises:
        NotImplementedError: for a sliding window.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None,
        attn_type: str,
        kv_sharing_target_layer_name: str | None,
        q_lora_rank: int | None,
        kv_lora_rank: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        qk_head_dim: int,
        v_head_dim: int,
        kv_b_proj: Any,
        indexer: object | None = None,
        q_pad_num_heads: int | None = None,
        **unused: Any,
    ) -> None:
        # What one look at the configuration tells is refused before: see `_latent_limits`.
        if sliding_window is not None:
            raise NotImplementedError("ascend_patch has no sliding window over latent keys (MLA).")
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.q_lora_rank = q_lora_rank
        self.kv_lora_rank = kv_lora_rank
        self.qk_nope_head_dim = qk_nope_head_dim
        self.qk_rope_head_dim = qk_rope_head_dim
        self.qk_head_dim = qk_head_dim
        self.v_head_dim = v_head_dim
        self.kv_b_proj = kv_b_proj
        self.indexer = indexer
        self.q_pad_num_heads = None
        self.dcp_world_size = 1

    def forward_mqa(
        self,
        q: tuple[torch.Tensor, torch.Tensor],
        kv_c_and_k_pe_cache: torch.Tensor,
        attn_metadata: AscendLatentMetadata,
        layer: Any,
    ) -> tuple[torch.Tensor, None]:
        """Requests with one new token: attention over latent vectors.

        Args:
            q: ``[num_requests, num_heads, 512]``, the query without rotation, folded; and its rotated part,
                ``[num_requests, num_heads, 64]``.
            kv_c_and_k_pe_cache: ``[num_blocks, block_size, 576]``, as `planes` divides it.

        Returns:
            ``[num_requests, num_heads, 512]``; and no log-sum-exp, which this operator does not give.
        """
        batch = attn_metadata.decode
        assert batch is not None
        latents, ropes = planes(kv_c_and_k_pe_cache, self.kv_lora_rank)
        attended = npu.latent_attention(
            q[0].contiguous(),
            q[1].contiguous(),
            latents,
            ropes,
            block_table=batch.block_table,
            kv_lens=batch.kv_lens,
            scale=self.scale,
            block_size=latents.shape[1],
        )
        return attended, None

    def forward_mha(
        self,
        q: torch.Tensor,
        kv_c_normed: torch.Tensor,
        k_pe: torch.Tensor,
        kv_c_and_k_pe_cache: torch.Tensor,
        attn_metadata: AscendLatentMetadata,
        k_scale: torch.Tensor,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
    ) -> None:
        """Requests with several new tokens: attention over keys and values multiplied out.

        Args:
            q: ``[num_tokens, num_heads, 192]``.
            kv_c_normed: ``[num_tokens, 512]``.
            k_pe: ``[num_tokens, 1, 64]``.
            kv_c_and_k_pe_cache: ``[num_blocks, block_size, 576]``, as `planes` divides it.
            output: ``[num_tokens, num_heads * 128]``; filled.
        """
        batch = attn_metadata.prefill
        assert batch is not None
        ends, merges = batch.query_ends, bool(batch.context)
        total, lse = self._attend(q, kv_c_normed, k_pe, ends, ends, causal=True, with_lse=merges)
        latents, ropes = planes(kv_c_and_k_pe_cache, self.kv_lora_rank)
        for chunk in batch.context:
            part = self._attend(
                q[chunk.tokens],
                latents.view(-1, self.kv_lora_rank).index_select(0, chunk.slots),
                ropes.view(-1, 1, self.qk_rope_head_dim).index_select(0, chunk.slots),
                chunk.query_ends,
                chunk.kv_ends,
                causal=False,
                with_lse=True,
            )
            merged = npu.merge_attention(total[chunk.tokens], lse[chunk.tokens], *part)
            total[chunk.tokens], lse[chunk.tokens] = merged
        output.copy_(total.view(output.shape))

    def _attend(
        self,
        query: torch.Tensor,
        latents: torch.Tensor,
        ropes: torch.Tensor,
        query_ends: list[int],
        kv_ends: list[int],
        *,
        causal: bool,
        with_lse: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = self.kv_b_proj(latents)[0].view(-1, self.num_heads, self.qk_nope_head_dim + self.v_head_dim)
        keys, values = both.split([self.qk_nope_head_dim, self.v_head_dim], dim=-1)
        keys = torch.cat((keys, ropes.expand(-1, self.num_heads, -1)), dim=-1)
        return npu.unfolded_attention(
            query.contiguous(),
            keys,
            values.contiguous(),
            query_ends=query_ends,
            kv_ends=kv_ends,
            scale=self.scale,
            causal=causal,
            with_lse=with_lse,
        )
