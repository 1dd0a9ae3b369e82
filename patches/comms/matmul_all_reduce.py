"""The last product of a tensor-parallel block and its sum over the ranks as one operator, in prefill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

_FORWARD = "vllm.model_executor.layers.linear:RowParallelLinear.forward"

FEWEST_ROWS = 513
"""CANN documents the operator for prefill only. A decode step of 256 requests, vLLM's default, has up to 512 rows with
one drafted token each."""

PATCH = Patch(
    id="comms.matmul_all_reduce",
    why="Ranks wait for a product before they add it up; CANN's MatmulAllReduce does both at once, in prefill on A2.",
    on=False,  # whether it is faster was never measured on an NPU
    requires=("worker.init_device",),
    variants=(Variant(versions=">=0.13.0,<0.34", rewrites=(Wrap(_FORWARD, by=":with_fused_sum"),)),),
    upstream="vllm/model_executor/layers/linear.py, RowParallelLinear.forward",
    unnecessary_when="vLLM lets a platform fuse the product of RowParallelLinear with its all-reduce.",
    expires=(Expiry(_FORWARD, without="tensor_model_parallel_all_reduce"),),
)


def with_fused_sum(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Layers and steps that do not fit go on as they are; a layer finds out once."""
    from ascend_patch import npu

    def forward(self: Any, input_: Any) -> Any:
        rows = input_.shape[:-1].numel()
        if rows < FEWEST_ROWS:
            return original(self, input_)
        try:
            communicator = self.npu_communicator
        except AttributeError:
            communicator = self.npu_communicator = communicator_of(self)
        if communicator is None:
            return original(self, input_)
        output = npu.matmul_all_reduce(input_.contiguous(), self.weight, communicator)
        return (output, None) if self.return_bias else output

    return forward


def communicator_of(layer: Any) -> str | None:
    """The name of the tensor-parallel ranks' communicator, or None where the operator does not fit the layer."""
    from vllm.distributed import get_tp_group
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    from ascend_patch import npu

    fits = (
        layer.tp_size > 1
        and layer.reduce_results
        and layer.input_is_parallel
        and layer.bias is None
        and type(layer.quant_method) is UnquantizedLinearMethod
        and layer.weight.is_contiguous()
        and not npu.matmul_all_reduce_refuses(layer.tp_size, layer.weight.dtype)
    )
    return npu.ranks_of(get_tp_group().device_group).name if fits else None
