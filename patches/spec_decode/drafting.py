"""Speculative decoding with a draft model, EAGLE or MTP: the proposer's inputs are prepared by kernels."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Patch, Replace, Retarget, Variant

_UTILS = "vllm.v1.spec_decode.utils"
_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_DRAFTING = "ascend_patch.patches.spec_decode._drafting"

PATCH = Patch(
    id="spec_decode.drafting",
    why="The proposer prepares its inputs with Triton kernels; without Triton neither EAGLE nor a draft model can run.",
    requires=("spec_decode.rejection_sampler", "attention.paged"),
    variants=(
        Variant(
            versions=">=0.32.0,<0.34",
            rewrites=(
                Replace(f"{_UTILS}:_eagle_prepare_inputs_padded", by=f"{_DRAFTING}:prepare_inputs_padded"),
                Replace(f"{_UTILS}:_eagle_prepare_next_token_padded", by=f"{_DRAFTING}:prepare_next_token_padded"),
                Replace(f"{_UTILS}:eagle_step_update_slot_mapping_and_metadata", by=f"{_DRAFTING}:step_metadata"),
                Replace(f"{_UTILS}:_copy_and_expand_eagle_inputs", by=f"{_DRAFTING}:copy_and_expand"),
                Retarget(f"{_RUNNER}._copy_draft_token_ids_to_cpu", names={"cuda": "npu"}, sites=1),
                Retarget(f"{_RUNNER}._copy_valid_sampled_token_count", names={"cuda": "npu"}, sites=1),
            ),
        ),
    ),
    upstream="vllm/v1/spec_decode/utils.py, vllm/v1/spec_decode/llm_base_proposer.py",
    unnecessary_when="The proposer has a path without Triton that an out-of-tree platform can select.",
)
