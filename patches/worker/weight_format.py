"""Linear weights in the format that the NPU's matrix units read directly."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

PATCH = Patch(
    id="worker.weight_format",
    why="A weight in FRACTAL_NZ is read by the cube units without rearranging it in every product.",
    on=False,  # its gain has never been measured; the official plugin leaves unquantized weights in ND, too
    requires=("platform.npu",),
    conflicts=("comms.matmul_all_reduce",),  # whose operator is asked for weights in ND only
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Wrap(
                    "vllm.model_executor.layers.linear:UnquantizedLinearMethod.process_weights_after_loading",
                    by="ascend_patch.patches.worker._weight_format:then_cast",
                ),
            ),
        ),
    ),
    upstream="vllm/model_executor/layers/linear.py, UnquantizedLinearMethod",
    unnecessary_when="torch-npu casts weights by itself, or vLLM lets an out-of-tree platform choose their format.",
    expires=(
        Expiry(
            "vllm.model_executor.layers.linear:UnquantizedLinearMethod.process_weights_after_loading",
            mentions="is_out_of_tree",
        ),
    ),
)
