"""New KV cache blocks are zeroed by one kernel."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant, Wrap

_ZEROER = "vllm.v1.worker.utils:KVBlockZeroer"
_KERNELS = "ascend_patch.patches.kv_cache._kernels"

PATCH = Patch(
    id="kv_cache.zero_blocks",
    why="Caches of mixed precision, or with Mamba layers, are zeroed block by block, by a Triton kernel.",
    requires=("worker.init_device",),
    variants=(
        Variant(
            versions=">=0.30.0,<0.34",
            rewrites=(
                Wrap(f"{_ZEROER}.__init__", by=f"{_KERNELS}:keep_caches"),
                Replace(f"{_ZEROER}.zero_block_ids", by=f"{_KERNELS}:zero_block_ids"),
            ),
        ),
    ),
    upstream="vllm/v1/worker/utils.py, KVBlockZeroer",
    unnecessary_when="KVBlockZeroer has a path without Triton that an out-of-tree platform can select.",
    expires=(Expiry(f"{_ZEROER}.zero_block_ids", without="_zero_kv_blocks_kernel"),),
)
