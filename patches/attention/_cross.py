"""Attention of a decoder to what an encoder said, whose keys and values are cached once per request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from ascend_patch import npu
from ascend_patch.patches.attention._backend import (
    AscendAttentionImpl,
    AscendAttentionMetadata,
    AscendMetadataBuilder,
    host_lengths,
)
from ascend_patch.patches.attention._interface import AttentionBackend, AttentionType, CommonAttentionMetadata


def on_npu(original: Callable[[type[AttentionBackend]], type[AttentionBackend]]) -> Callable[..., Any]:
    """Give the backend that vLLM derives for cross attention our metadata and our implementation."""

    def create_cross_attention_backend(underlying_attn_backend: type[AttentionBackend]) -> Any:
        backend: Any = original(underlying_attn_backend)  # the same class at each call
        backend.get_builder_cls = staticmethod(lambda: AscendCrossMetadataBuilder)
        backend.get_impl_cls = staticmethod(lambda: AscendCrossImpl)
        return backend

    return create_cross_attention_backend


class AscendCrossMetadataBuilder(AscendMetadataBuilder):
    """Contexts are what the encoder said, whole and at once; slots only for requests whose first step this is."""

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> AscendAttentionMetadata:
        """Take the encoder's lengths from the host, where the model runner made them.

        Raises:
            RuntimeError: this vLLM's model runner does not give the lengths.
        """
        common = common_attn_metadata
        lengths, contexts = common.encoder_seq_lens_cpu, host_lengths(common)
        if lengths is None or contexts is None:
            raise RuntimeError(
                "vLLM's model runner gave cross attention no lengths on the host; 'ascend-patch verify' says whether"
                " this vLLM is one that ascend_patch knows."
            )
        requests = common.num_reqs
        starts = common.query_start_loc_cpu[: requests + 1]
        # vLLM lets the decoder begin only with all of its prompt, and the encoder runs in that step.
        is_first_step = contexts[:requests] == starts[1:] - starts[:-1]
        encoded = torch.from_numpy(lengths[:requests])
        block_table = common.block_table_tensor[:requests]
        beginning = encoded * is_first_step
        slots = torch.empty(0, dtype=torch.int64, device=block_table.device)
        if beginning.any():
            slots, _ = npu.context_slots(block_table, beginning.tolist(), self.kv_cache_spec.block_size)
        return AscendAttentionMetadata(
            num_actual_tokens=common.num_actual_tokens,
            query_ends=starts[1:].tolist(),
            kv_lens=encoded.tolist(),
            block_table=block_table,
            slot_mapping=slots,
            block_size=self.kv_cache_spec.block_size,
            causal=False,
        )


class AscendCrossImpl(AscendAttentionImpl):
    """Attention of one layer to the encoder's output."""

    attends: ClassVar[str] = AttentionType.ENCODER_DECODER

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        kv_cache: torch.Tensor,
        attn_metadata: AscendAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Keep what the encoder said to the requests that begin, then attend.

        Args:
            query: ``[num_tokens, num_heads, head_size]``, the decoder's.
            key: ``[num_encoded, num_kv_heads, head_size]``, as `value`: the encoder's, of the requests that begin, one
                after the other; None in a step in which none does.
            kv_cache: ``[num_blocks, 2, block_size, num_kv_heads * head_size]``.
            output: ``[num_tokens, num_heads, head_size]`` (or the same flattened); filled and returned.

        Raises:
            RuntimeError: `key` has not as many tokens as the requests that begin.
        """
        if attn_metadata is None:  # profiling run: no cache yet
            return output.zero_()
        if kv_cache is not self._cache:
            self._bind(kv_cache)
        slots = attn_metadata.slot_mapping
        given = 0 if key is None else key.shape[0]
        if given != slots.shape[0]:
            raise RuntimeError(
                f"The encoder gave {given} tokens to cross attention, and requests that begin in this step have"
                f" {slots.shape[0]}."
            )
        if key is not None and value is not None:
            # Slices of the joint projection; the operator wants each on its own.
            npu.scatter_kv_cache(key.contiguous(), value.contiguous(), self._keys, self._values, slots)
        tokens = attn_metadata.num_actual_tokens
        attended = self._attend(query[:tokens].contiguous(), attn_metadata)
        output[:tokens].copy_(attended.view(output[:tokens].shape))
        return output
