"""Several attention layers with one index: a decoder's two, or a draft model's and its target's."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Retarget, Variant

_BIND = "vllm.v1.worker.utils:bind_kv_cache"

PATCH = Patch(
    id="kv_cache.shared_indices",
    why="Up to 0.27 vLLM lets layers share an index only on platforms that it knows, and it does not know this one.",
    variants=(
        Variant(
            versions=">=0.13.0,<0.28",
            rewrites=(Retarget(_BIND, names={"is_cuda_alike": "is_out_of_tree"}, sites=1),),
        ),
        Variant(versions=">=0.28.0,<0.34", unneeded="Since 0.28 vLLM asks for no platform there."),
    ),
    upstream="vllm/v1/worker/utils.py",
    unnecessary_when="bind_kv_cache asks for no platform.",
    expires=(Expiry(_BIND, without="is_cuda_alike"),),
)
