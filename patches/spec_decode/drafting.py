"""Speculative decoding with a draft model, EAGLE or MTP: the proposer's inputs are prepared by kernels."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Replace, Retarget, Variant

_UTILS = "vllm.v1.spec_decode.utils"
_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_DRAFTING = "ascend_patch.patches.spec_decode._drafting"

_COUNTS = Retarget(f"{_RUNNER}._copy_valid_sampled_token_count", names={"cuda": "npu"}, sites=1)
_DRAFTS = Retarget(f"{_RUNNER}._copy_draft_token_ids_to_cpu", names={"cuda": "npu"}, sites=1)
_STEP = Replace(f"{_UTILS}:eagle_step_update_slot_mapping_and_metadata", by=f"{_DRAFTING}:step_metadata")


def _on_grid(kernel: str, function: str) -> Replace:
    return Replace(f"{_UTILS}:{kernel}", by=f"{_DRAFTING}:{function}_on_grid")


_NEXT_TOKEN = (
    _on_grid("eagle_prepare_next_token_padded_kernel", "prepare_next_token_padded"),
    # Up to 0.19 the extents of the grid are computed with a function of Triton's.
    Add(
        "vllm.triton_utils.importing:TritonPlaceholder.next_power_of_2",
        by="ascend_patch.patches._triton:next_power_of_2",
    ),
)
_KERNELS = (
    _on_grid("eagle_prepare_inputs_padded_kernel", "prepare_inputs_padded"),
    *_NEXT_TOKEN,
    _on_grid("copy_and_expand_eagle_inputs_kernel", "copy_and_expand"),
)
# EAGLE and MTP only. vLLM 0.15 has draft models as well, with one more kernel that nothing stands in for.
_EARLY = (_on_grid("eagle_prepare_inputs_padded_kernel", "prepare_inputs_padded"), *_NEXT_TOKEN, _COUNTS)
_EARLIEST = (_on_grid("eagle_prepare_inputs_padded_kernel", "earliest_prepare_inputs_padded"), *_NEXT_TOKEN, _COUNTS)

PATCH = Patch(
    id="spec_decode.drafting",
    why="The proposer prepares its inputs with Triton kernels; without Triton neither EAGLE nor a draft model can run.",
    requires=("spec_decode.rejection_sampler", "attention.paged", "kv_cache.shared_indices"),
    variants=(
        Variant(versions=">=0.13.0,<0.14", rewrites=_EARLIEST),
        Variant(versions=">=0.14.0,<0.16", rewrites=(*_EARLY, _DRAFTS)),
        Variant(versions=">=0.16.0,<0.18", rewrites=(*_KERNELS, _COUNTS, _DRAFTS)),
        Variant(versions=">=0.18.0,<0.30", rewrites=(*_KERNELS, _STEP, _COUNTS, _DRAFTS)),
        Variant(
            versions=">=0.30.0,<0.34",
            rewrites=(
                Replace(f"{_UTILS}:_eagle_prepare_inputs_padded", by=f"{_DRAFTING}:prepare_inputs_padded"),
                Replace(f"{_UTILS}:_eagle_prepare_next_token_padded", by=f"{_DRAFTING}:prepare_next_token_padded"),
                Replace(f"{_UTILS}:_copy_and_expand_eagle_inputs", by=f"{_DRAFTING}:copy_and_expand"),
                _STEP,
                _COUNTS,
                _DRAFTS,
            ),
        ),
    ),
    upstream="vllm/v1/spec_decode/utils.py, vllm/v1/spec_decode/llm_base_proposer.py",
    unnecessary_when="The proposer has a path without Triton that an out-of-tree platform can select.",
    expires=(
        Expiry("vllm.v1.spec_decode.utils:eagle_step_update_slot_mapping_and_metadata", mentions="HAS_TRITON"),
        Expiry("vllm.v1.spec_decode.utils:eagle_step_update_slot_mapping_and_metadata", mentions="current_platform"),
    ),
)
