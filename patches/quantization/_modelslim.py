"""What msModelSlim did to each layer of a model, read from its description.

Source: msModelSlim, quantization formats, AscendV1: ``quant_model_description.json`` beside the weights gives each
tensor a type, one for all tensors of a linear layer.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from ascend_patch.patches.quantization.modelslim import DESCRIPTION, NAME

_CACHE_STEPS = tuple(f".{which}_proj.kv_cache_scale" for which in "kv")


class ModelSlimConfig(QuantizationConfig):
    """Which type each tensor has, by its name in the checkpoint.

    Attributes:
        int8_cache: whether the model's keys and values are to be kept as int8.
    """

    def __init__(self, types: dict[str, Any]) -> None:
        super().__init__()
        self._take(types)
        # Layers that make queries, keys and values, by the path of the attention that they belong to; made in use, as a
        # configuration travels between processes and these do not.
        self._projections: WeakValueDictionary[str, torch.nn.Module] | None = None

    def get_name(self) -> Any:
        return NAME

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        """NPUs have none."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return [DESCRIPTION]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelSlimConfig:
        return cls(config)

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        """Names as the model has them in vLLM."""
        self._take(hf_to_vllm_mapper.apply_dict(self.types))

    def _take(self, types: dict[str, Any]) -> None:
        self.types = types
        # Asked twice for each layer; large models have a hundred thousand tensors.
        self.int8_cache = any(name.endswith(_CACHE_STEPS) for name in types)

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        """How a layer computes; None where vLLM's own way is the right one.

        Raises:
            ValueError: the description does not know the layer, or says something that is not supported.
        """
        from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

        from ascend_patch.patches.quantization._modelslim_linear import METHODS

        if hasattr(layer, "kv_cache_torch_dtype"):
            return self._method_of_cache(layer, prefix)
        if not isinstance(layer, LinearBase):
            return self._method_of_experts(layer, prefix)
        kind = self.type_of(prefix)
        if kind != "FLOAT" and kind not in METHODS:
            known = ", ".join(("FLOAT", *METHODS))
            raise ValueError(f"{prefix} is {kind} in {DESCRIPTION}, which does not run here: quantize it as {known}")
        method: Any = UnquantizedLinearMethod() if kind == "FLOAT" else METHODS[kind](prefix)
        path, _, name = prefix.rpartition(".")
        if name == "qkv_proj" and self._keeps_int8(path):
            from ascend_patch.patches.quantization._modelslim_cache import beside_weights

            if self._projections is None:
                self._projections = WeakValueDictionary()
            self._projections[path] = layer
            return beside_weights(method, prefix)
        return method

    def _keeps_int8(self, path: str) -> bool:
        return any(f"{path}.{which}_proj.kv_cache_scale" in self.types for which in "kv")

    def _method_of_cache(self, layer: Any, prefix: str) -> Any:
        if not self.int8_cache or layer.kv_cache_dtype != "auto":  # a type that the user names goes before it
            return None
        path = prefix.rpartition(".")[0]
        if not self._keeps_int8(path):
            from ascend_patch.patches.quantization._int8_cache_limits import flags_without_int8

            raise ValueError(
                f"{DESCRIPTION} has int8 caches (C8) in other layers than {prefix}; all layers' blocks are of one size"
                " here: quantize the cache of every layer, or of none, or start with"
                f" {flags_without_int8(torch.get_default_dtype())}"
            )
        from ascend_patch.patches.quantization._modelslim_cache import ModelSlimInt8CacheMethod

        found = self._projections.get(path) if self._projections is not None else None
        return ModelSlimInt8CacheMethod(self, prefix, found)

    def _method_of_experts(self, layer: Any, prefix: str) -> Any:
        kinds = {str(kind) for name, kind in self.types.items() if name.startswith(f"{prefix}.")}
        if kinds <= {"FLOAT"}:
            return None
        if kinds == {"W8A8_DYNAMIC"} and hasattr(layer, "moe_config"):
            from ascend_patch.patches.quantization._modelslim_experts import int8_experts_method

            return int8_experts_method(layer.moe_config, prefix)
        shown = ", ".join(sorted(kinds))
        raise ValueError(
            f"{prefix} is {shown} in {DESCRIPTION}; beside linear layers only experts run here in int8, all of a layer"
            " as W8A8_DYNAMIC: leave it FLOAT"
        )

    def type_of(self, prefix: str) -> str:
        """The type of a linear layer; of one that holds several of the checkpoint's, theirs."""
        path, _, name = prefix.rpartition(".")
        parts = self.packed_modules_mapping.get(name, [name])
        kinds = {part: self.types.get(f"{path}.{part}.weight" if path else f"{part}.weight") for part in parts}
        found = set(kinds.values())
        if found == {None}:
            raise ValueError(f"{DESCRIPTION} says nothing about {prefix}: is it the one of this model?")
        if len(found) > 1:
            shown = ", ".join(f"{part} {kind}" for part, kind in kinds.items())
            raise ValueError(f"{prefix} is one matrix here, but {DESCRIPTION} has {shown}: quantize them alike")
        return str(found.pop())
