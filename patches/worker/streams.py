"""Streams and events of the model runner live on the NPU."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Retarget, Variant

_RUNNER = "vllm.v1.worker.gpu_model_runner"
_TO_NPU = {"cuda": "npu"}

_ALWAYS = (
    Retarget(f"{_RUNNER}:AsyncGPUModelRunnerOutput.__init__", names=_TO_NPU, sites=1),
    Retarget(f"{_RUNNER}:GPUModelRunner.__init__", names=_TO_NPU, sites=1),
)

_SAMPLED = Retarget(f"{_RUNNER}:GPUModelRunner._get_or_create_async_output_copy_stream", names=_TO_NPU, sites=1)
_POOLED = Retarget(f"{_RUNNER}:AsyncGPUPoolingModelRunnerOutput.__init__", names=_TO_NPU, sites=1)

PATCH = Patch(
    id="worker.streams",
    why="Async scheduling copies sampled tokens on a stream made with torch.cuda.Stream and torch.cuda.Event.",
    required=True,
    requires=("worker.init_device",),
    variants=(
        Variant(versions=">=0.13.0,<0.14", rewrites=_ALWAYS),
        # As of 0.20 what was pooled is copied without a stream of its own where the device is not CUDA's.
        Variant(versions=">=0.14.0,<0.20", rewrites=(*_ALWAYS, _POOLED)),
        Variant(versions=">=0.20.0,<0.34", rewrites=(*_ALWAYS, _SAMPLED)),
    ),
    upstream="vllm/v1/worker/gpu_model_runner.py",
    unnecessary_when="The model runner uses torch.Stream and torch.Event, or the platform's.",
    expires=(Expiry("vllm.v1.worker.gpu_model_runner:AsyncGPUModelRunnerOutput.__init__", without="torch.cuda"),),
)
