"""Which experts a token goes to, as one operator."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Variant, Wrap

_ROUTERS = "vllm.model_executor.layers.fused_moe.router"
_KERNELS = "vllm.model_executor.layers.fused_moe.fused_moe"
_ROUTING = "ascend_patch.patches.moe._routing"

PATCH = Patch(
    id="moe.routing",
    why="Choosing the best experts is a CUDA kernel without a twin in PyTorch; by groups it has one: twelve operators.",
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.15",
            rewrites=(
                Replace(f"{_KERNELS}:vllm_topk_softmax", by=f"{_ROUTING}:topk_softmax"),
                Wrap(f"{_KERNELS}:grouped_topk", by=f"{_ROUTING}:where_operator_fits"),
            ),
        ),
        Variant(
            versions=">=0.15.0,<0.34",
            rewrites=(
                Replace(f"{_ROUTERS}.fused_topk_router:vllm_topk_softmax", by=f"{_ROUTING}:topk_softmax"),
                Replace(f"{_ROUTERS}.fused_topk_router:vllm_topk_sigmoid", by=f"{_ROUTING}:topk_sigmoid"),
                Replace(f"{_ROUTERS}.fused_topk_bias_router:vllm_topk_softmax", by=f"{_ROUTING}:topk_softmax"),
                Replace(f"{_ROUTERS}.fused_topk_bias_router:vllm_topk_sigmoid", by=f"{_ROUTING}:topk_sigmoid"),
                Wrap(f"{_ROUTERS}.grouped_topk_router:grouped_topk", by=f"{_ROUTING}:where_operator_fits"),
            ),
        ),
    ),
    upstream="vllm/_custom_ops.py: topk_softmax and topk_sigmoid call _moe_C, which only a CUDA build has",
    unnecessary_when="The routers ask the platform for their kernel.",
    expires=(
        Expiry(f"{_ROUTERS}.fused_topk_router:vllm_topk_softmax", mentions="is_out_of_tree"),
        Expiry(f"{_ROUTERS}.fused_topk_router:dispatch_topk_softmax_func", mentions="is_out_of_tree"),
        Expiry("vllm._custom_ops:topk_softmax", without="_moe_C"),
    ),
)
