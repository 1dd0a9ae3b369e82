"""Experts that move to where the load is (EPLB): which replica a token goes to, and how often each is chosen."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Replace, Retarget, Variant

_CONFIG = "vllm.config.parallel:ParallelConfig._validate_parallel_config"
_EPLB = "vllm.distributed.eplb"
_MAPPING = "eplb_map_to_physical_and_record"
_LAYERS = "vllm.model_executor.layers.fused_moe"

_ALLOWED = Retarget(_CONFIG, names={"is_cuda_alike": "is_out_of_tree"}, sites=1)
_MAPPED = Replace(f"{_LAYERS}.router.base_router:{_MAPPING}", by="ascend_patch.patches.moe._load_balancing:to_replicas")
_MAPPED_BY_LAYER = Replace(f"{_LAYERS}.layer:{_MAPPING}", by="ascend_patch.patches.moe._load_balancing:to_replicas")


_STATE = f"{_EPLB}.eplb_state:EplbState"
_THREAD = f"{_STATE}.__init__"  # gives the thread that moves experts a device, where it is a CUDA device
_BUFFER = f"{_EPLB}.rebalance_execute:move_to_buffer"


def _of_npu(*functions: str) -> tuple[Retarget, ...]:
    """What vLLM asks ``torch.cuda`` while experts move, of ``torch.npu``."""
    return tuple(Retarget(function, names={"cuda": "npu"}, sites=1) for function in functions)


_UP_TO_30 = (
    _ALLOWED,
    Retarget(_THREAD, names={"cuda": "npu"}, strings={"cuda": "npu"}, sites=2),
    *_of_npu(f"{_EPLB}.async_worker:start_async_worker", f"{_STATE}.rearrange", _BUFFER),
)
_UP_TO_19 = (*_UP_TO_30, *_of_npu(f"{_STATE}.move_to_workspace"))
_UP_TO_18 = (*_UP_TO_19, *_of_npu(f"{_EPLB}.async_worker:transfer_run_periodically"))
_UP_TO_17 = (*_UP_TO_18, *_of_npu(f"{_EPLB}.rebalance_execute:rearrange_expert_weights_inplace"))
_FROM_20_TO_30 = (
    *_UP_TO_30,
    *_of_npu(
        f"{_EPLB}.async_worker:run_rebalance_experts",
        f"{_EPLB}.async_worker:transfer_run_periodically",
        f"{_EPLB}.eplb_communicator:TorchDistNcclEplbCommunicator.execute",
        f"{_EPLB}.eplb_communicator:TorchDistGlooStagedEplbCommunicator.execute",
        f"{_EPLB}.eplb_utils:CpuGpuEvent.__init__",
        f"{_EPLB}.eplb_utils:CpuGpuEvent.record",
    ),
)
_FROM_31 = (_ALLOWED, Retarget(_THREAD, strings={"cuda": "npu"}, sites=1))

PATCH = Patch(
    id="moe.load_balancing",
    why="vLLM allows --enable-eplb on CUDA and XPU only; elsewhere tokens would keep the experts' own numbers.",
    requires=("moe.experts",),
    variants=(
        Variant(versions=">=0.13.0,<0.15", rewrites=(*_UP_TO_17, _MAPPED_BY_LAYER)),
        Variant(versions=">=0.15.0,<0.18", rewrites=(*_UP_TO_17, _MAPPED)),
        Variant(versions=">=0.18.0,<0.19", rewrites=(*_UP_TO_18, _MAPPED)),
        Variant(versions=">=0.19.0,<0.20", rewrites=(*_UP_TO_19, _MAPPED)),
        Variant(versions=">=0.20.0,<0.31", rewrites=(*_FROM_20_TO_30, _MAPPED)),
        Variant(versions=">=0.31.0,<0.34", rewrites=(*_FROM_31, _MAPPED)),
    ),
    upstream="vllm/model_executor/layers/fused_moe/router/base_router.py: a Triton kernel, or nothing",
    unnecessary_when="vLLM asks the platform whether it can balance experts, and has a mapping without Triton.",
    expires=(Expiry(_CONFIG, without="is_cuda_alike"),),
)
