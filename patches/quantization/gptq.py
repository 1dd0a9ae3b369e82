"""Linear layers of checkpoints in GPTQ's own format, as AutoGPTQ and GPTQModel write them."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant
from ascend_patch.patches.quantization._out_of_tree import configurations

_CONFIGS = "ascend_patch.patches.quantization._packed_configs"
_FILE = "vllm.model_executor.layers.quantization.auto_gptq"

PATCH = Patch(
    id="quantization.gptq",
    why="vLLM sends GPTQ's checkpoints to CUDA's Marlin and Exllama kernels, and refuses them where there is no CUDA.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=configurations(
                gptq=f"{_CONFIGS}:GPTQConfig",
                gptq_marlin=f"{_CONFIGS}:OtherNameOfGPTQ",
                auto_gptq=f"{_CONFIGS}:OtherNameOfGPTQ",
            ),
        ),
    ),
    upstream="vllm/model_executor/layers/quantization/auto_gptq.py (gptq.py and gptq_marlin.py up to 0.22)",
    unnecessary_when="AutoGPTQLinearMethod asks for a kernel on any platform, with zero points as well.",
    expires=(Expiry(f"{_FILE}:AutoGPTQLinearMethod.__init__", without="verify_marlin_supported"),),
)
