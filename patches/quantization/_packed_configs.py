"""What GPTQ's and AWQ's tools say about a checkpoint, and which of its layers they quantized.

The latter is read from the checkpoint itself: a layer is quantized if it has a `qweight`. Only where the names of the
tensors cannot be known beforehand, the lists of the configuration decide.

Sources: AutoGPTQ, GPTQModel: BaseQuantizeConfig, QuantizeConfig (`quantize_config.json`, the same in `config.json`);
AutoAWQ: AwqConfig.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig


class Scheme(NamedTuple):
    """How the weights of a linear layer are stored.

    Attributes:
        group: how many of a column's weights share a scale; -1 for all.
        shifted: whether there are zero points that count.
        ordered: whether groups may be in the order of the activations.
        minus_one: whether zero points are stored as one less than they are.
    """

    bits: int
    group: int
    shifted: bool
    ordered: bool = False
    minus_one: bool = False


class PackedConfig(QuantizationConfig):
    """What both formats have in common."""

    name: ClassVar[str]

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.quantized: list[str] = []
        """Names of layers that have a `qweight`; none where they are not known."""
        self.scheme = self.scheme_from(config)

    def scheme_from(self, config: dict[str, Any]) -> Scheme:
        """Read and check a description.

        Raises:
            ValueError: such weights do not run.
        """
        raise NotImplementedError

    def scheme_of(self, layer: str) -> Scheme:
        """The scheme of one of the checkpoint's layers, by its name."""
        return self.scheme

    def is_listed(self, layer: str) -> bool:
        """Whether the configuration says that a layer is quantized."""
        raise NotImplementedError

    def linear_method(self, prefix: str, scheme: Scheme) -> Any:
        """How such a layer computes."""
        raise NotImplementedError

    def experts_layout(self) -> Any:
        """How experts' matrices are stored, see `_experts_layouts`."""
        raise NotImplementedError

    def get_name(self) -> Any:
        return self.name

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        """NPUs have none."""
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return ["quantize_config.json", "quant_config.json"]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PackedConfig:
        return cls(config)

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        """Names as the model has them in vLLM."""
        self.quantized = hf_to_vllm_mapper.apply_list(self.quantized)

    def maybe_update_config(self, model_name: str, hf_config: Any = None, revision: str | None = None) -> None:
        """Look which layers the checkpoint has quantized."""
        from vllm.transformers_utils.config import get_safetensors_params_metadata

        tensors = get_safetensors_params_metadata(model_name, revision=revision)
        self.quantized = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        """How a layer computes; None where vLLM's own way is the right one.

        Raises:
            ValueError: it is quantized in a way that does not run.
        """
        from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        if hasattr(layer, "moe_config"):
            return self._experts_method(layer, prefix)
        if isinstance(layer, ParallelLMHead):
            if self.is_quantized(prefix) if self.quantized else self.config.get("lm_head"):
                raise ValueError(f"{prefix} is quantized, which does not run here: quantize with lm_head=False")
            return None
        if not isinstance(layer, LinearBase):
            return None
        parts = self._parts(prefix)
        kinds = {part: self.scheme_of(part) if self.is_quantized(part) else None for part in parts}
        schemes = set(kinds.values())
        if len(schemes) > 1:
            shown = ", ".join(f"{part.rpartition('.')[2]} as {kind}" for part, kind in kinds.items())
            raise ValueError(f"{prefix} is one matrix here, but the checkpoint has {shown}: quantize them alike")
        scheme = schemes.pop()
        return UnquantizedLinearMethod() if scheme is None else self.linear_method(prefix, scheme)

    def _parts(self, prefix: str) -> list[str]:
        """The layers of the checkpoint that lie in one of the model's."""
        path, dot, name = prefix.rpartition(".")
        return [f"{path}{dot}{part}" for part in self.packed_modules_mapping.get(name, [name])]

    def is_quantized(self, layer: str) -> bool:
        """Whether one of the checkpoint's layers is; a model in another one has the other's name before its own."""
        if not self.quantized:
            return self.is_listed(layer)
        return any(layer == name or layer.endswith(f".{name}") for name in self.quantized)

    def _experts_method(self, layer: Any, prefix: str) -> Any:
        names = [name for name in self.quantized if _lies_in(name, prefix)]
        if not names and (self.quantized or not self.is_listed(prefix)):
            return None
        # vLLM does not notice a matrix of an expert that never came.
        matrices = 3 * layer.moe_config.num_experts
        if names and len(names) != matrices:
            raise ValueError(
                f"{prefix} has {len(names)} of its {matrices} matrices quantized: quantize all of a layer's experts, or"
                " none"
            )
        schemes = {self.scheme_of(name) for name in names or [f"{prefix}.0.up_proj"]}
        if len(schemes) > 1:
            shown = " and ".join(sorted(map(str, schemes)))
            raise ValueError(f"{prefix} is one layer of experts, but the checkpoint has {shown}: quantize them alike")
        from ascend_patch.patches.quantization._weight_only_experts import AscendWeightOnlyExperts

        return AscendWeightOnlyExperts(layer.moe_config, prefix, schemes.pop(), self.experts_layout())

    def check_size(self, bits: int, group: int, allowed: tuple[int, ...]) -> None:
        """Refuse what no layer can run with.

        Raises:
            ValueError: naming what can.
        """
        if bits not in allowed:
            remedy = " or ".join(map(str, allowed))
            raise ValueError(f"{self.name} with {bits} bits does not run here: quantize to {remedy} bits")
        if group != -1 and (group <= 0 or group % 32):
            raise ValueError(f"{self.name} with groups of {group} does not run here: take a multiple of 32, or -1")


def _lies_in(name: str, prefix: str) -> bool:
    """Whether a matrix of the checkpoint is one of a layer's experts; a model in another one has the other's name."""
    path, found, _ = name.rpartition(".experts.")
    layer = f"{path}.experts"
    return bool(found) and (layer == prefix or prefix.endswith(f".{layer}"))


class GPTQConfig(PackedConfig):
    """``quant_method: gptq``."""

    name = "gptq"

    def __init__(self, config: dict[str, Any]) -> None:
        self.dynamic: dict[str, dict[str, Any]] = config.get("dynamic") or {}
        """GPTQModel's exceptions: what differs for layers whose names match a pattern."""
        super().__init__(config)
        for pattern, changes in self.dynamic.items():
            if not pattern.startswith("-:"):
                self.scheme_from({**config, **changes})

    def scheme_from(self, config: dict[str, Any]) -> Scheme:
        bits, group = (self.get_from_keys(config, [key]) for key in ("bits", "group_size"))
        self.check_size(bits, group, (4, 8))
        form = config.get("checkpoint_format") or config.get("format") or "gptq"
        if form not in ("gptq", "gptq_v2") or config.get("is_marlin_format"):
            raise ValueError(f"gptq's weights in the format {form} are for another kernel: save them as gptq")
        # In AutoRound's and in GPTQModel's both are optional.
        symmetric, ordered = config.get("sym", True), bool(config.get("desc_act", False)) and group != -1
        return Scheme(bits, group, shifted=not symmetric, ordered=ordered, minus_one=form == "gptq")

    def scheme_of(self, layer: str) -> Scheme:
        from vllm.model_executor.layers.quantization.utils.gptq_utils import get_dynamic_override

        changes: Any = get_dynamic_override(self, layer) or {}
        return self.scheme_from({**self.config, **changes}) if changes else self.scheme

    def is_listed(self, layer: str) -> bool:
        from vllm.model_executor.layers.quantization.utils.gptq_utils import get_dynamic_override

        if get_dynamic_override(self, layer) is False:
            return False
        listed = self.config.get("modules_in_block_to_quantize") or []
        names = [name for entry in listed for name in ([entry] if isinstance(entry, str) else entry)]
        return not names or any(name in layer for name in names)

    def linear_method(self, prefix: str, scheme: Scheme) -> Any:
        from ascend_patch.patches.quantization._packed_linear import AscendGPTQLinearMethod

        return AscendGPTQLinearMethod(prefix, scheme)

    def experts_layout(self) -> Any:
        from ascend_patch.patches.quantization._experts_layouts import GPTQ

        return GPTQ

    @staticmethod
    def get_checkpoint_weight_mapper() -> Any:
        """As of 0.32 vLLM leaves `g_idx` out, which tells whether groups are in the order of the activations."""
        from vllm.model_executor.models.utils import WeightsMapper

        return WeightsMapper()


class AWQConfig(PackedConfig):
    """``quant_method: awq``."""

    name = "awq"

    def scheme_from(self, config: dict[str, Any]) -> Scheme:
        bits, group = (
            self.get_from_keys(config, ["w_bit", "bits"]),
            self.get_from_keys(config, ["q_group_size", "group_size"]),
        )
        self.check_size(bits, group, (4,))
        form = str(config.get("version") or config.get("format") or "gemm").lower()
        if form != "gemm":
            raise ValueError(f"awq's weights in the version {form} are for another kernel: save them as gemm")
        if not config.get("zero_point", True):
            raise ValueError("awq without zero points does not run here: quantize with zero_point=True")
        return Scheme(bits, group, shifted=True)

    def is_listed(self, layer: str) -> bool:
        return not any(name in layer for name in self.config.get("modules_to_not_convert") or [])

    def linear_method(self, prefix: str, scheme: Scheme) -> Any:
        from ascend_patch.patches.quantization._packed_linear import AscendAWQLinearMethod

        return AscendAWQLinearMethod(prefix, scheme)

    def experts_layout(self) -> Any:
        from ascend_patch.patches.quantization._experts_layouts import AWQ

        return AWQ


class _OtherName:
    """Who asks for a format by the name of a CUDA kernel, or vLLM's newer one, gets the format.

    Classes of their own, because vLLM allows only them to change the name that the user gave.
    """

    name: ClassVar[str]
    other_names: ClassVar[tuple[str, ...]]

    @classmethod
    def override_quantization_method(cls, hf_quant_cfg: dict[str, Any], user_quant: Any, hf_config: Any = None) -> Any:
        found = str(hf_quant_cfg.get("quant_method")).lower()
        return cls.name if found == cls.name and user_quant in cls.other_names else None


class OtherNameOfGPTQ(_OtherName, GPTQConfig):
    other_names = ("gptq_marlin", "auto_gptq")


class OtherNameOfAWQ(_OtherName, AWQConfig):
    other_names = ("awq_marlin", "auto_awq")
