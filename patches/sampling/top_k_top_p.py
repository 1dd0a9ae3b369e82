"""Top-k and top-p filtering as one operator."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

PATCH = Patch(
    id="sampling.top_k_top_p",
    why="Without Triton vLLM sorts the vocabulary, masks, and scatters back in ten operators; torch-npu has one.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(Replace("vllm.v1.sample.ops.topk_topp_sampler:apply_top_k_top_p", by=":apply_top_k_top_p"),),
        ),
    ),
    upstream="vllm/v1/sample/ops/topk_topp_sampler.py, apply_top_k_top_p",
    unnecessary_when="TopKTopPSampler lets an out-of-tree platform bring its own filter.",
    expires=(
        Expiry("vllm.v1.sample.ops.topk_topp_sampler:TopKTopPSampler.forward_oot"),
        Expiry("vllm.v1.sample.ops.topk_topp_sampler:TopKTopPSampler.__init__", mentions="is_out_of_tree"),
        Expiry("vllm.v1.sample.ops.topk_topp_sampler:apply_top_k_top_p", mentions="is_out_of_tree"),
    ),
)


def apply_top_k_top_p(logits: Any, k: Any, p: Any, has_topp_only_rows: bool = True) -> Any:
    """Set what top-k or top-p excludes to minus infinity.

    Args:
        logits: ``[num_requests, vocab_size]`` float32.
        k: ``[num_requests]`` int32 (the profiling run brings int64, which the operator refuses), or None for no top-k.
        p: ``[num_requests]`` float32, or None for no top-p.
        has_topp_only_rows: a hint to vLLM's Triton kernel, since 0.33; the operator needs none.
    """
    if k is None and p is None:
        return logits
    return npu.top_k_top_p(logits, k if k is None else k.int(), p)
