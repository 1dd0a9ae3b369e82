"""The rank of the sampled token as one kernel."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

PATCH = Patch(
    id="sampling.token_ranks",
    why="A rank is a compiled comparison in vLLM; without Inductor that is a mask as large as the logits and a sum.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Replace(
                    "vllm.v1.sample.sampler:Sampler.gather_logprobs",
                    by="ascend_patch.patches.sampling._kernels:gather_logprobs",
                ),
            ),
        ),
    ),
    upstream="vllm/v1/sample/sampler.py, Sampler.gather_logprobs",
    unnecessary_when="batched_count_greater_than is an operator that an out-of-tree platform can bring.",
    expires=(
        Expiry("vllm.v1.sample.ops.logprobs:batched_count_greater_than", without="torch.compile"),
        Expiry("vllm.v1.sample.sampler:Sampler.gather_logprobs", without="batched_count_greater_than"),
    ),
)
