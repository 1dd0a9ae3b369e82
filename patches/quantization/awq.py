"""Linear layers of checkpoints in AWQ's own format, as AutoAWQ writes them."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant
from ascend_patch.patches.quantization._out_of_tree import configurations

_CONFIGS = "ascend_patch.patches.quantization._packed_configs"
_FILE = "vllm.model_executor.layers.quantization.auto_awq"

PATCH = Patch(
    id="quantization.awq",
    why="vLLM sends AWQ's checkpoints to CUDA's kernels or Triton's; an NPU has neither.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=configurations(
                awq=f"{_CONFIGS}:AWQConfig",
                awq_marlin=f"{_CONFIGS}:OtherNameOfAWQ",
                auto_awq=f"{_CONFIGS}:OtherNameOfAWQ",
            ),
        ),
    ),
    upstream="vllm/model_executor/layers/quantization/auto_awq.py (awq.py and awq_marlin.py in older versions)",
    unnecessary_when="AutoAWQConfig.get_quant_method asks for a kernel on any platform, as it does on CPU and XPU.",
    expires=(Expiry(f"{_FILE}:AutoAWQConfig.get_quant_method", without="is_cuda"),),
)
