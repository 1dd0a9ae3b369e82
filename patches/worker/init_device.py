"""The worker opens an NPU instead of refusing everything that is not CUDA."""

from __future__ import annotations

from ascend_patch.engine.vocabulary import Expiry, Patch, Retarget, Variant

PATCH = Patch(
    id="worker.init_device",
    why="Worker.init_device accepts the device type 'cuda' only and opens the device 'cuda:<index>'.",
    required=True,
    requires=("platform.npu",),
    variants=(
        Variant(
            versions=">=0.13.0,<0.34",
            rewrites=(
                Retarget(
                    "vllm.v1.worker.gpu_worker:Worker.init_device",
                    # Up to 0.23 torch.cuda is asked for devices and, up to 0.17, memory; then torch.accelerator, whose
                    # memory functions know no NPU before torch-npu 2.13.
                    names={"cuda": "npu", "accelerator": "npu", "set_device_index": "set_device"},
                    strings={"cuda": "npu", "cuda:": "npu:"},
                    sites=(3, 4, 5),
                ),
            ),
        ),
    ),
    upstream="vllm/v1/worker/gpu_worker.py, Worker.init_device",
    unnecessary_when="Worker.init_device takes its device type from the platform.",
    expires=(Expiry("vllm.v1.worker.gpu_worker:Worker.init_device", without="'cuda'"),),
)
