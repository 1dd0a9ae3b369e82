"""The grammar's bitmask as one kernel."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Retarget, Variant

_UTILS = "vllm.v1.structured_output.utils"

PATCH = Patch(
    id="sampling.grammar_bitmask",
    why="On an NPU xgrammar unpacks the bitmask with PyTorch operators, 32 bytes per token; the kernel reads the bits.",
    # xgrammar before 0.1.32, which vLLM up to 0.17 pins, compiles with Inductor instead and fails.
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Add(f"{_UTILS}:npu_bitmask", by="ascend_patch.patches.sampling._kernels:GrammarBitmask"),
                Retarget(f"{_UTILS}:apply_grammar_bitmask", names={"xgr": "npu_bitmask"}, sites=1),
            ),
        ),
    ),
    upstream="vllm/v1/structured_output/utils.py, apply_grammar_bitmask",
    unnecessary_when="xgrammar has a kernel for NPUs.",
    expires=(
        Expiry("vllm.v1.structured_output.utils:apply_grammar_bitmask", mentions="current_platform"),
        Expiry("vllm.v1.structured_output.utils:apply_grammar_bitmask", without="xgr"),
    ),
)
