"""Speculative decoding: draft tokens are accepted or rejected by kernels."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Patch, Replace, Variant

_SAMPLER = "vllm.v1.sample.rejection_sampler"
_KERNELS = "ascend_patch.patches.spec_decode._kernels"

PATCH = Patch(
    id="spec_decode.rejection_sampler",
    why="The rejection sampler is made of four Triton kernels; without Triton no speculative decoding can run.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.32.0,<0.34",
            rewrites=(
                Replace(f"{_SAMPLER}:rejection_sample", by=f"{_KERNELS}:rejection_sample"),
                Replace(f"{_SAMPLER}:sample_recovered_tokens", by=f"{_KERNELS}:sample_recovered_tokens"),
                Replace(f"{_SAMPLER}:expand_batch_to_tokens", by=f"{_KERNELS}:expand_batch_to_tokens"),
            ),
        ),
    ),
    upstream="vllm/v1/sample/rejection_sampler.py",
    unnecessary_when="vLLM has a rejection sampler in plain PyTorch that an out-of-tree platform can select.",
)
