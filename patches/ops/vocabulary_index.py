"""Rows of a vocabulary-parallel embedding as one kernel."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant

_EMBEDDING = "vllm.model_executor.layers.vocab_parallel_embedding"

PATCH = Patch(
    id="ops.vocabulary_index",
    why="With tensor parallelism each rank's rows are a compiled function; without Inductor that is 13 operators.",
    traced=True,
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Replace(
                    f"{_EMBEDDING}:get_masked_input_and_mask",
                    by="ascend_patch.patches.ops._kernels:get_masked_input_and_mask",
                ),
            ),
        ),
    ),
    upstream="vllm/model_executor/layers/vocab_parallel_embedding.py, VocabParallelEmbedding.forward",
    unnecessary_when="VocabParallelEmbedding lets an out-of-tree platform bring its fused embedding, as CUDA has one.",
    expires=(
        Expiry(f"{_EMBEDDING}:VocabParallelEmbedding.__init__", mentions="is_out_of_tree"),
        Expiry(f"{_EMBEDDING}:get_masked_input_and_mask", without="torch.compile"),
    ),
)
