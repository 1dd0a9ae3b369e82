"""What makes an attention layer of vLLM keep int8: the type of its cache, and the implementation that attends to it."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod


class Int8CacheMethod(BaseKVCacheMethod):
    """The method of one attention layer; formats add where its steps come from.

    A cache type that the user names goes before the checkpoint's.
    """

    # vLLM's own way to weights that were processed before is for FP8's steps.
    supports_pre_processed_weights = False

    def __init__(self, quant_config: Any, prefix: str) -> None:
        super().__init__(quant_config)
        self.prefix = prefix
        self.dtype = torch.get_default_dtype()  # the model's, while its layers are made

    def create_weights(self, layer: Any) -> None:
        if layer.kv_cache_dtype == "auto":
            layer.kv_cache_torch_dtype = torch.int8

    def process_weights_after_loading(self, layer: Any) -> None:
        found = self.take_steps(layer)
        if layer.kv_cache_torch_dtype != torch.int8 or found is None:
            return
        from ascend_patch.patches.attention._int8 import AscendInt8Impl, Steps

        steps = [
            Steps.of(scale, zero_point if bool(zero_point.any()) else None, self.dtype) for scale, zero_point in found
        ]
        self._check(steps)
        # The operator takes offsets of both or none.
        if steps[0].offset is not None or steps[1].offset is not None:
            steps = [Steps.of(scale, zero_point, self.dtype) for scale, zero_point in found]
        try:
            layer.impl = AscendInt8Impl(layer.impl, *steps)
        except ValueError as error:
            raise ValueError(f"{self.prefix}: {error}") from None

    def take_steps(self, layer: Any) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Scale and zero point of keys, and of values, as the checkpoint has them, one each or one per channel.

        None where they were taken before (weights that are loaded again keep them).

        Raises:
            ValueError: the checkpoint has none for this layer.
        """
        raise NotImplementedError

    def _check(self, steps: list[Any]) -> None:
        for which, step in zip(("keys", "values"), steps, strict=True):
            if not bool((torch.isfinite(step.scale) & (step.scale > 0)).all()):
                raise ValueError(
                    f"{self.prefix} keeps int8, but the checkpoint gave no usable step for its {which} (as"
                    f" {self.dtype}): quantize it again, or start with --kv-cache-dtype bfloat16"
                )
