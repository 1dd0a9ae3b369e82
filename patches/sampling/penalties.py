"""Repetition, frequency and presence penalties as one kernel."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

PATCH = Patch(
    id="sampling.penalties",
    why="vLLM counts tokens into arrays of the vocabulary's size and passes over them ten times; one kernel suffices.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Replace(
                    "vllm.model_executor.layers.utils:apply_penalties",
                    by="ascend_patch.patches.sampling._kernels:apply_penalties",
                ),
            ),
        ),
    ),
    upstream="vllm/model_executor/layers/utils.py, apply_penalties",
    unnecessary_when="torch-npu has an operator for the three penalties.",
    expires=(
        Expiry("vllm.model_executor.layers.utils:apply_penalties", mentions="current_platform"),
        Expiry("vllm.model_executor.layers.utils:apply_penalties", without="get_token_bin_counts_and_mask"),
    ),
)
