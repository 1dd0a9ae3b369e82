"""Attention that sees the whole sequence and keeps nothing: encoders for embeddings, scores and classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from ascend_patch import npu
from ascend_patch.patches.attention._backend import AscendAttentionImpl, AscendAttentionMetadata
from ascend_patch.patches.attention._interface import AttentionBackend, AttentionType


def on_npu(original: Callable[[type[AttentionBackend]], type[AttentionBackend]]) -> Callable[..., Any]:
    """Give the backend that vLLM derives for encoders our implementation without a cache."""

    def create_encoder_only_attention_backend(underlying_attn_backend: type[AttentionBackend]) -> Any:
        backend: Any = original(underlying_attn_backend)  # the same class at each call
        backend.get_impl_cls = staticmethod(lambda: AscendEncoderImpl)
        return backend

    return create_encoder_only_attention_backend


class AscendEncoderImpl(AscendAttentionImpl):
    """Attention of one encoder layer: each token sees its whole sequence, or `window` tokens to either side."""

    attends: ClassVar[str] = AttentionType.ENCODER_ONLY

    def _choose(self, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
        if npu.varlen_attention_supports(dtype, self.head_size):
            return self._attend_packed
        raise NotImplementedError(
            f"{npu.device_name()} has no attention without a cache for {dtype} and head size {self.head_size}:"
            " flash attention (910B, 910_93) takes float32, float16 and bfloat16 up to 768."
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
        """Attend among the batch's own tokens.

        Args:
            query: ``[num_tokens, num_heads, head_size]``.
            key: ``[num_tokens, num_kv_heads, head_size]``, as `value`.
            kv_cache: empty, not used.
            output: ``[num_tokens, num_heads, head_size]`` (or the same flattened); filled and returned.
        """
        if attn_metadata is None:  # profiling run
            return output.zero_()
        tokens = attn_metadata.num_actual_tokens
        attended = self._attend_packed(query[:tokens], key[:tokens], value[:tokens], attn_metadata)
        output[:tokens].copy_(attended.view(output[:tokens].shape))
        return output

    def _attend_packed(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: AscendAttentionMetadata
    ) -> torch.Tensor:
        return npu.varlen_attention(
            # Slices of the joint projection; the operator wants each on its own.
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            query_ends=batch.query_ends,
            kv_ends=batch.query_ends,
            num_heads=self.num_heads,
            scale=self.scale,
            causal=False,
            window=self.window,
        )
