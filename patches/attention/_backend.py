"""The attention backend that vLLM's layers and model runner see.

The KV cache of a layer is two planes, keys and values, each
``[num_blocks, block_size, num_kv_heads * head_size]`` and contiguous: the
layout "BnBsH" of CANN's fused inference attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import AttentionSpec

from ascend_patch import npu
from ascend_patch.patches.attention._interface import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
    MultipleOf,
)
from ascend_patch.patches.attention._layout import KV_BLOCK_SIZE


class AscendAttentionBackend(AttentionBackend):
    """Decoder attention on the NPU: prefill, chunked prefill, mixed batches and decode in one operator.

    How vLLM is told the layout of the KV cache differs between its versions: see `_shaped` and `_specified`.
    """

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.bfloat16, torch.float16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto", "float16", "bfloat16"]
    forward_includes_kv_cache_update = True

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[AscendAttentionImpl]:
        return AscendAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[AscendMetadataBuilder]:
        return AscendMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int | MultipleOf]:
        return [MultipleOf(KV_BLOCK_SIZE)]

    @classmethod
    def get_preferred_block_size(cls, default_block_size: int) -> int:
        return KV_BLOCK_SIZE

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        return attn_type == AttentionType.DECODER


@dataclass(slots=True)
class AscendAttentionMetadata:
    """One batch, as the fused operators want it.

    Attributes:
        num_actual_tokens: tokens of the batch without padding.
        query_ends: cumulative query lengths, one per request, on the host.
        kv_lens: context length of each request including this step, on the host.
        block_table: ``[num_requests, max_blocks]`` int32.
        slot_mapping: ``[num_tokens]``, the cache slot of each new token.
        gather_slots: ``[sum(kv_lens)]`` int64, the cache slot of every token of every
            context, for operators that cannot follow a block table; filled on first use.
        kv_ends: cumulative `kv_lens`; goes with `gather_slots`.
        num_decodes: requests at the front with one new token each; counted only where the cache is int8.
        kept: what layers computed from this batch and the next ones use again.
    """

    num_actual_tokens: int
    query_ends: list[int]
    kv_lens: list[int]
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    block_size: int
    causal: bool
    gather_slots: torch.Tensor | None = None
    kv_ends: list[int] | None = None
    num_decodes: int = 0
    kept: dict[Any, Any] = field(default_factory=dict)

    def gathered(self) -> tuple[torch.Tensor, list[int]]:
        """`gather_slots` and `kv_ends`, computed once per batch from the block table."""
        if self.gather_slots is None or self.kv_ends is None:
            self.gather_slots, self.kv_ends = npu.context_slots(self.block_table, self.kv_lens, self.block_size)
        return self.gather_slots, self.kv_ends


def host_lengths(common: CommonAttentionMetadata) -> torch.Tensor | None:
    """The context lengths that the model runner keeps on the host: up to 0.19 only `_seq_lens_cpu` has them."""
    lengths = getattr(common, "seq_lens_cpu_upper_bound", None)
    return getattr(common, "_seq_lens_cpu", None) if lengths is None else lengths


class AscendMetadataBuilder(AttentionMetadataBuilder[AscendAttentionMetadata]):
    """What a batch is to all layers of one KV cache group."""

    def __init__(
        self, kv_cache_spec: AttentionSpec, layer_names: list[str], vllm_config: VllmConfig, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        speculative = vllm_config.speculative_config is not None
        # With async scheduling the host does not know how many drafts were accepted.
        self._host_lengths_are_exact = not (speculative and vllm_config.scheduler_config.async_scheduling)
        self._is_int8 = kv_cache_spec.dtype == torch.int8
        if self._is_int8:
            # vLLM sorts the batch: requests with more new tokens than this come last.
            self.reorder_batch_threshold = 1

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> AscendAttentionMetadata:
        """Take the lengths from their host copies: the fused operators want them there, and no sync is needed."""
        host_lens = host_lengths(common_attn_metadata) if self._host_lengths_are_exact else None
        return self._build(common_attn_metadata, host_lens)

    def build_for_drafting(
        self, common_attn_metadata: CommonAttentionMetadata, draft_index: int
    ) -> AscendAttentionMetadata:
        """The host does not know how many draft tokens were rejected: the lengths come from the device.

        Rejected tokens have no slot (-1), which the cache write refuses; they go to vLLM's null block.
        """
        metadata = self._build(common_attn_metadata, None)
        metadata.slot_mapping = metadata.slot_mapping.clamp_min(0)
        return metadata

    def _build(self, common: CommonAttentionMetadata, host_lens: torch.Tensor | None) -> AscendAttentionMetadata:
        if host_lens is None:
            host_lens = common.seq_lens.cpu()
        ends = common.query_start_loc_cpu[1 : common.num_reqs + 1]
        decodes = 0
        if self._is_int8:
            decodes = int((ends == torch.arange(1, common.num_reqs + 1)).int().cumprod(0).sum())
        return AscendAttentionMetadata(
            num_actual_tokens=common.num_actual_tokens,
            query_ends=ends.tolist(),
            kv_lens=host_lens[: common.num_reqs].tolist(),
            block_table=common.block_table_tensor[: common.num_reqs],
            slot_mapping=common.slot_mapping,
            block_size=self.kv_cache_spec.block_size,
            causal=bool(common.causal),
            num_decodes=decodes,
        )


_OTHER_PATCHES = {
    AttentionType.ENCODER_ONLY: ("attention.encoder_only", "without a cache"),
    AttentionType.ENCODER_DECODER: ("attention.cross", "to an encoder's output"),
}


class AscendAttentionImpl(AttentionImpl[AscendAttentionMetadata]):
    """Attention of one layer.

    Raises:
        NotImplementedError: for ALiBi, logit soft-capping, attention sinks or another kind of attention than `attends`;
            for a type and head size that no attention operator of this SoC takes.
    """

    attends: ClassVar[str] = AttentionType.DECODER

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
    ) -> None:
        if attn_type != self.attends and attn_type in _OTHER_PATCHES:
            patch, lacking = _OTHER_PATCHES[attn_type]
            raise NotImplementedError(
                f"This model attends {lacking}, which needs the patch {patch}; it is not in force:"
                f" 'ascend-patch show {patch}' says why."
            )
        for feature, present in (
            ("ALiBi", alibi_slopes is not None),
            ("logit soft-capping", bool(logits_soft_cap)),
            ("attention sinks", sinks is not None),
            (f"attention of type {attn_type}", attn_type != self.attends),
        ):
            if present:
                raise NotImplementedError(
                    f"This model uses {feature}, which ascend_patch's attention does not have yet;"
                    " `ascend-patch list --area attention` says what there is."
                )
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.window = sliding_window
        self.shares_kv = kv_sharing_target_layer_name is not None
        self._cache: torch.Tensor | None = None
        self._keys = self._values = self._flat_keys = self._flat_values = torch.empty(0)
        self._attend = self._choose(torch.get_default_dtype())

    def _choose(self, dtype: torch.dtype) -> Callable[[torch.Tensor, AscendAttentionMetadata], torch.Tensor]:
        if npu.paged_attention_supports(dtype, self.head_size):
            return self._attend_paged
        if npu.varlen_attention_supports(dtype, self.head_size):
            return self._attend_gathered
        raise NotImplementedError(
            f"{npu.device_name()} has no attention operator that ascend_patch knows for {dtype} and head size"
            f" {self.head_size}: fused inference attention (910B, 910_93, 950) wants float16 or bfloat16 and a multiple"
            " of 16 up to 512; flash attention (910B, 910_93) takes float32, too, up to 768. Try --dtype float16."
        )

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: AscendAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write this step's keys and values, then attend.

        Args:
            query: ``[num_tokens, num_heads, head_size]``.
            key: ``[num_tokens, num_kv_heads, head_size]``, as `value`.
            kv_cache: ``[num_blocks, 2, block_size, num_kv_heads * head_size]``.
            output: ``[num_tokens, num_heads, head_size]`` (or the same flattened); filled and returned.
        """
        if attn_metadata is None:  # profiling run: no cache yet
            return self._rehearse(output)
        if kv_cache is not self._cache:
            self._bind(kv_cache)
        tokens = attn_metadata.num_actual_tokens
        if tokens != query.shape[0]:
            query, key, value = query[:tokens], key[:tokens], value[:tokens]
        if not self.shares_kv:
            self._write(key, value, attn_metadata.slot_mapping[:tokens])
        # A query without rotary embedding is a slice of the joint projection; the operators want it on its own.
        attended = self._attend(query.contiguous(), attn_metadata)
        output[:tokens].copy_(attended.view(output[:tokens].shape))
        return output

    def _rehearse(self, output: torch.Tensor) -> torch.Tensor:
        return output.zero_()

    def _write(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        npu.scatter_kv_cache(key, value, self._keys, self._values, slots)

    def _bind(self, kv_cache: torch.Tensor) -> None:
        keys, values = kv_cache[:, 0], kv_cache[:, 1]
        if not keys.is_contiguous():
            raise RuntimeError(
                f"The KV cache of this layer is not two contiguous planes (shape {tuple(kv_cache.shape)}, strides"
                f" {kv_cache.stride()}); ascend_patch asked vLLM for the layout LHBNC."
            )
        blocks, block_size = keys.shape[:2]
        heads = (blocks, block_size, self.num_kv_heads, self.head_size)
        self._cache = kv_cache
        self._flat_keys, self._flat_values = keys, values
        self._keys, self._values = keys.view(heads), values.view(heads)

    def _attend_paged(self, query: torch.Tensor, batch: AscendAttentionMetadata) -> torch.Tensor:
        return npu.paged_attention(
            query,
            self._flat_keys,
            self._flat_values,
            block_table=batch.block_table,
            query_ends=batch.query_ends,
            kv_lens=batch.kv_lens,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            scale=self.scale,
            block_size=batch.block_size,
            causal=batch.causal,
            window=self.window,
        )

    def _attend_gathered(self, query: torch.Tensor, batch: AscendAttentionMetadata) -> torch.Tensor:
        """For what the paged operator does not take (float32, other head sizes): bring each context together first."""
        slots, kv_ends = batch.gathered()
        shape = (-1, self.num_kv_heads, self.head_size)
        return npu.varlen_attention(
            query,
            self._keys.view(shape).index_select(0, slots),
            self._values.view(shape).index_select(0, slots),
            query_ends=batch.query_ends,
            kv_ends=kv_ends,
            num_heads=self.num_heads,
            scale=self.scale,
            causal=batch.causal,
            window=self.window,
        )
