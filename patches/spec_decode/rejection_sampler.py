"""Speculative decoding: draft tokens are accepted or rejected by kernels."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

_SAMPLER = "vllm.v1.sample.rejection_sampler"
_KERNELS = "ascend_patch.patches.spec_decode._kernels"

_ALWAYS = (
    Replace(f"{_SAMPLER}:sample_recovered_tokens", by=f"{_KERNELS}:sample_recovered_tokens"),
    Replace(f"{_SAMPLER}:expand_batch_to_tokens", by=f"{_KERNELS}:expand_batch_to_tokens"),
)

PATCH = Patch(
    id="spec_decode.rejection_sampler",
    why="The rejection sampler is made of four Triton kernels; without Triton no speculative decoding can run.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.16",
            rewrites=(
                Replace(f"{_SAMPLER}:rejection_sample", by=f"{_KERNELS}:rejection_sample_of_probs"),
                *_ALWAYS,
            ),
        ),
        Variant(
            versions=">=0.16.0,<0.34",
            rewrites=(
                Replace(f"{_SAMPLER}:rejection_sample", by=f"{_KERNELS}:rejection_sample"),
                *_ALWAYS,
            ),
        ),
    ),
    upstream="vllm/v1/sample/rejection_sampler.py",
    unnecessary_when="vLLM has a rejection sampler in plain PyTorch that an out-of-tree platform can select.",
    expires=(
        Expiry("vllm.v1.sample.rejection_sampler:rejection_sample", mentions="HAS_TRITON"),
        Expiry("vllm.v1.sample.rejection_sampler:rejection_sample", mentions="current_platform"),
    ),
)
