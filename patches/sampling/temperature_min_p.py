"""Temperature and min-p as one kernel each."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

PATCH = Patch(
    id="sampling.temperature_min_p",
    why="Min-p is a softmax and four more passes over the logits, temperature three operators; a kernel does either.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Replace(
                    "vllm.v1.sample.sampler:Sampler.apply_temperature",
                    by="ascend_patch.patches.sampling._kernels:apply_temperature",
                ),
                Replace(
                    "vllm.v1.sample.logits_processor.builtin:MinPLogitsProcessor.apply",
                    by="ascend_patch.patches.sampling._kernels:apply_min_p",
                ),
            ),
        ),
    ),
    upstream="vllm/v1/sample/sampler.py, vllm/v1/sample/logits_processor/builtin.py",
    unnecessary_when="npu_top_k_top_p_sample takes vLLM's generators, and vLLM calls it.",
    expires=(
        Expiry("vllm.v1.sample.sampler:Sampler.apply_temperature", mentions="current_platform"),
        Expiry("vllm.v1.sample.logits_processor.builtin:MinPLogitsProcessor.apply", without="softmax"),
    ),
)
