"""Checkpoints of msModelSlim, Ascend's tool for quantizing: ``--quantization ascend``, or found in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Register, Variant, Wrap

_METHODS = "vllm.model_executor.layers.quantization"
NAME = "ascend"
DESCRIPTION = "quant_model_description.json"

PATCH = Patch(
    id="quantization.modelslim",
    why="vLLM does not know the format that Ascend's own tool for quantizing writes.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Wrap(f"{_METHODS}:QUANTIZATION_METHODS", by=":with_our_name"),
                Register(
                    f"{_METHODS}:_CUSTOMIZED_METHOD_TO_QUANT_CONFIG",
                    key=NAME,
                    value="ascend_patch.patches.quantization._modelslim:ModelSlimConfig",
                ),
                Wrap("vllm.config.model:ModelConfig._verify_quantization", by=":after_a_look_into_the_folder"),
            ),
        ),
    ),
    upstream="vllm/model_executor/layers/quantization/__init__.py, register_quantization_config",
    unnecessary_when="vLLM reads quant_model_description.json.",
    expires=(Expiry(f"{_METHODS}:get_quantization_config", mentions="quant_model_description"),),
)


def with_our_name(original: list[str]) -> list[str]:
    """vLLM refuses methods that are not in this list."""
    return [*original, NAME]


def after_a_look_into_the_folder(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """A description beside the weights says what they are: nobody has to say it again."""

    def _verify_quantization(self: Any) -> None:
        if self.quantization is None and Path(self.model, DESCRIPTION).is_file():
            self.quantization = NAME
        original(self)

    return _verify_quantization
