"""What makes an attention layer of vLLM keep int8: the type of its cache, and the implementation that attends to it."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod

from ascend_patch.patches.quantization._int8_cache_limits import flags_without_int8


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
        """Attend with the steps that were loaded; where none came since, as before."""
        from ascend_patch.patches.attention._int8 import AscendInt8Impl

        old = layer.impl.steps if isinstance(layer.impl, AscendInt8Impl) else None
        if layer.kv_cache_torch_dtype != torch.int8 or (old is not None and not self.steps_came(layer)):
            return
        keys, values = self._made_of(self.take_steps(layer), old is not None and old[0].offset is not None)
        if old is not None:
            if (keys.offset is None) != (old[0].offset is None):
                raise ValueError(
                    f"{self.prefix} keeps int8 without zero points since it was loaded, and these steps have some:"
                    " start the engine again with them"
                )
            old[0].become(keys)
            old[1].become(values)
            return
        try:
            layer.impl = AscendInt8Impl(layer.impl, keys, values)
        except ValueError as error:
            raise ValueError(f"{self.prefix}: {error}") from None
        for which, steps in (("keys", keys), ("values", values)):
            for name, tensor in steps.tensors().items():
                # vLLM keeps buffers through a deep sleep.
                layer.register_buffer(f"npu_{which}_{name}", tensor, persistent=False)

    def steps_came(self, layer: Any) -> bool:
        """Whether steps were loaded since `take_steps`."""
        raise NotImplementedError

    def take_steps(self, layer: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Scale and zero point of keys, and of values, as the checkpoint has them, one each or one per channel.

        A scale that the checkpoint does not have is NaN.
        """
        raise NotImplementedError

    def receive(self, layer: Any, loaded: dict[str, torch.Tensor]) -> None:
        """Keep what a reload brought for parameters of `layer` itself."""

    def _made_of(self, found: list[tuple[torch.Tensor, torch.Tensor]], with_offsets: bool) -> list[Any]:
        from ascend_patch.patches.attention._int8 import Steps

        # The operator takes offsets of both or none.
        with_offsets = with_offsets or any(bool(zero_point.any()) for _, zero_point in found)
        made = [Steps.of(scale, zero_point if with_offsets else None, self.dtype) for scale, zero_point in found]
        for which, step in zip(("keys", "values"), made, strict=True):
            if not bool((torch.isfinite(step.scale) & (step.scale > 0)).all()):
                raise ValueError(
                    f"{self.prefix} keeps int8, but the checkpoint gave no usable step for its {which} (as"
                    f" {self.dtype}): quantize it again, or start with {flags_without_int8(self.dtype)}"
                )
        return made
