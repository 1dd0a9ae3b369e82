"""Latent attention of vLLM up to 0.15, where the implementation and not the layer folds and unfolds."""

from __future__ import annotations

from typing import Any

import torch

from ascend_patch.patches.attention._latent import AscendLatentBackend, AscendLatentImpl
from ascend_patch.patches.attention._latent_interface import MLACommonImpl, MLACommonMetadataBuilder


class DrivingLatentImpl(AscendLatentImpl, MLACommonImpl):
    """`AscendLatentImpl` under the names and with the attributes that vLLM's own ``forward`` asks for."""

    is_aiter_triton_fp8_bmm_enabled = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from vllm.config import get_current_vllm_config

        self.chunked_prefill_workspace_size = MLACommonMetadataBuilder.determine_chunked_prefill_workspace_size(
            get_current_vllm_config()
        )

    def _forward_prefill(self, *args: Any, **kwargs: Any) -> None:
        self.forward_mha(*args, **kwargs)

    def _forward_decode(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        return self.forward_mqa(*args, **kwargs)


class DrivingLatentBackend(AscendLatentBackend):
    """`AscendLatentBackend` with that implementation."""

    @staticmethod
    def get_impl_cls() -> type[DrivingLatentImpl]:
        return DrivingLatentImpl
