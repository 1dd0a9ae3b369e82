"""Functions that run inside a worker process and look at single layers and caches; see `engine_functions`."""

from __future__ import annotations

import time
from typing import Any

from tests.end_to_end.engine_functions import ENGINES


def embed_in_parallel(seed: int, ranks: int) -> dict[str, Any]:
    """vLLM's embedding on every rank of a group that adds nothing up: the sum of the parts, and the table's rows.

    The vocabulary has original and added tokens (as LoRA adds them), neither a multiple of the padding.
    """
    import torch
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers import vocab_parallel_embedding as module

    from ascend_patch.hostcann import trace

    original, added, width = 1010, 37, 16
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(original + added, width, generator=generator)
    ids = torch.randint(0, original + added, (5, 29), generator=generator)
    ids[0, :2] = torch.tensor([original - 1, original])
    parts = []
    names = ("rank", "world_size")
    stock = {
        f"get_tensor_model_parallel_{name}": getattr(module, f"get_tensor_model_parallel_{name}") for name in names
    }
    stock["tensor_model_parallel_all_reduce"] = module.tensor_model_parallel_all_reduce
    try:
        module.get_tensor_model_parallel_world_size = lambda: ranks
        module.tensor_model_parallel_all_reduce = lambda part: part
        with set_current_vllm_config(VllmConfig()), trace.recording() as counts:
            for rank in range(ranks):
                module.get_tensor_model_parallel_rank = lambda rank=rank: rank
                layer = module.VocabParallelEmbedding(len(table), width, torch.float32, org_num_embeddings=original).to(
                    "npu"
                )
                owned = layer.shard_indices
                with torch.no_grad():
                    layer.weight.zero_()
                    org = table[owned.org_vocab_start_index : owned.org_vocab_end_index]
                    layer.weight[: len(org)] = org.npu()
                    more = table[owned.added_vocab_start_index : owned.added_vocab_end_index]
                    layer.weight[owned.num_org_elements_padded :][: len(more)] = more.npu()
                    parts.append(layer(ids.int().npu()).cpu())
            operators = sorted(counts()["aclnn"])
    finally:
        for name, function in stock.items():
            setattr(module, name, function)
    return {"sum": sum(parts).tolist(), "rows": table[ids].tolist(), "operators": operators}


def zero_new_blocks() -> None:
    """From now on vLLM takes every cache for one whose new blocks must be zeroed, as it does for mixed precision."""
    from vllm.v1.kv_cache_interface import KVCacheConfig

    KVCacheConfig.needs_kv_cache_zeroing = True  # type: ignore[assignment,method-assign]


def zeroed_blocks(name: str, blocks: list[int]) -> list[list[int]]:
    """Fill an engine's cache, have these blocks zeroed, and list per layer the blocks that are zero throughout."""

    def run(worker: Any) -> list[list[int]]:
        import torch

        runner = worker.model_runner
        runner._init_kv_zero_meta()
        caches = [
            layer.kv_cache
            for layer in runner.compilation_config.static_forward_context.values()
            if isinstance(layer.kv_cache, torch.Tensor)
        ]
        for cache in caches:
            cache.fill_(1)
        runner._zero_block_ids(blocks)
        found = []
        for cache in caches:
            whole = cache.cpu()
            per_block = [whole[block] for block in range(runner.kv_cache_config.num_blocks)]
            assert all(bool((block == 0).all()) or bool((block == 1).all()) for block in per_block), "half a block"
            found.append([number for number, block in enumerate(per_block) if bool((block == 0).all())])
            cache.zero_()
        return found

    found: list[list[int]] = ENGINES[name].collective_rpc(run)[0]
    return found


def offload_a_step(factor: int) -> None:
    """What a step writes goes to the host and back with OffloadingConnector (vLLM 0.13 to 0.18); raises if it differs.

    Args:
        factor: how many blocks of the device are one of the host.
    """
    import numpy
    import torch
    from vllm.v1.kv_offload.mediums import CPULoadStoreSpec, GPULoadStoreSpec
    from vllm.v1.kv_offload.worker import cpu_gpu

    from ascend_patch.patches.attention._shaped import ShapedCacheBackend

    size, blocks = 128, 12
    memory = torch.zeros(2, blocks, size, 64, dtype=torch.bfloat16, device="npu")
    cache = memory.transpose(0, 1)  # as the runner makes it: blocks first in its shape, planes first in memory
    handlers = cpu_gpu.CpuGpuOffloadingHandlers(
        gpu_block_size=size, cpu_block_size=factor * size, num_cpu_blocks=6,
        gpu_caches={"layer": cache}, attn_backends={"layer": ShapedCacheBackend},
    )  # fmt: skip
    out, back = handlers.gpu_to_cpu_handler, handlers.cpu_to_gpu_handler
    on_host, taken, given = [4, 1], [7, 2, 5, 3][: 2 * factor], [0, 9, 8, 11][: 2 * factor]
    written = torch.randn(len(taken), 2, size, 64).bfloat16()
    cache[torch.tensor(taken, device="npu")] = written.npu()
    assert out.transfer_async(0, (GPULoadStoreSpec(taken), CPULoadStoreSpec(on_host)))
    torch.npu.synchronize()
    assert len(out.get_finished()) == 1
    host = torch.stack([tensor.view(-1, size, 64) for tensor in planes_of(out.dst_tensors)], 1)
    places = numpy.array([[factor * block + part for part in range(factor)] for block in on_host]).ravel()
    assert torch.equal(host[places], written)
    assert back.transfer_async(1, (CPULoadStoreSpec(on_host), GPULoadStoreSpec(given)))
    torch.npu.synchronize()
    assert len(back.get_finished()) == 1
    assert torch.equal(cache.cpu()[given], written)
    others = sorted(set(range(blocks)) - {*taken, *given})
    assert not cache.cpu()[others].any()


def planes_of(tensors: list[Any]) -> list[Any]:
    """Keys and values, which vLLM 0.13 keeps in one tensor."""
    return [plane for tensor in tensors for plane in (tensor if tensor.shape[0] == 2 else [tensor])]


def simply_offload_a_step() -> None:
    """The same with SimpleCPUOffloadConnector (0.19 to 0.23), which does not wait for a step itself."""
    from types import SimpleNamespace

    import torch
    from vllm.v1.simple_kv_offload.worker import SimpleCPUOffloadWorker

    blocks = 12
    memory = torch.zeros(2, blocks, 128, 64, dtype=torch.bfloat16, device="npu")
    config: Any = SimpleNamespace(num_blocks=blocks)
    worker = SimpleCPUOffloadWorker(None, config, cpu_capacity_bytes=6 * memory[:, 0].nbytes)  # type: ignore[arg-type]
    worker.register_kv_caches({"layer": memory.transpose(0, 1)})
    assert worker.cpu_kv_caches is not None
    written = torch.randn(2, 2, 128, 64).bfloat16()
    memory[:, [7, 2]] = written.npu()
    metadata: Any = SimpleNamespace(
        load_event=-1, store_event=0, load_cpu_blocks=[], store_gpu_blocks=[7, 2], store_cpu_blocks=[4, 1]
    )
    worker.bind_connector_metadata(metadata)
    deadline = time.monotonic() + 60
    while worker.build_connector_worker_meta() is None:
        assert time.monotonic() < deadline
        worker.get_finished(set())
        metadata.store_gpu_blocks = []
    torch.npu.synchronize()
    planes = torch.stack([plane.view(torch.bfloat16).view(-1, 128, 64) for plane in worker.cpu_kv_caches.values()])
    assert torch.equal(planes[:, [4, 1]], written)
    worker._backend.shutdown()


def move_blocks(seed: int, rounds: int, staging_bytes: int) -> list[str]:
    """Move scattered blocks out and back as vLLM's offloading does; says what came out wrong, and the kernels seen."""
    import random

    import torch
    from vllm.v1.simple_kv_offload import cuda_mem_ops

    from ascend_patch.hostcann import trace
    from ascend_patch.patches.kv_offload import _kernels

    chooser, wrong = random.Random(seed), []
    before, _kernels.STAGING_BYTES = _kernels.STAGING_BYTES, staging_bytes
    try:
        with trace.recording() as counts:
            for round_ in range(rounds):
                on_device, on_host = chooser.randint(1, 20), chooser.randint(1, 20)
                regions = {str(number): 32 * chooser.randint(1, 60) for number in range(chooser.randint(1, 5))}
                device = {
                    key: torch.randint(-128, 128, (on_device, size), dtype=torch.int8).npu()
                    for key, size in regions.items()
                }
                host = {
                    key: torch.randint(-128, 128, (on_host, size), dtype=torch.int8) for key, size in regions.items()
                }
                for tensor in host.values():
                    tensor_before = tensor.clone()
                    cuda_mem_ops.pin_tensor(tensor)
                    tensor.copy_(tensor_before)
                    if not tensor.is_pinned():
                        wrong.append(f"round {round_}: not pinned")
                stream = torch.npu.Stream()
                stream.wait_stream(torch.npu.current_stream())
                for sources, destinations in ((device, host), (host, device)):
                    first, second = len(sources["0"]), len(destinations["0"])
                    count = chooser.randint(0, min(first, second))
                    froms, tos = chooser.sample(range(first), count), chooser.sample(range(second), count)
                    expected = {key: tensor.cpu().clone() for key, tensor in destinations.items()}
                    for key, tensor in expected.items():
                        for source, destination in zip(froms, tos, strict=True):
                            tensor[destination] = sources[key][source].cpu()
                    parameters = cuda_mem_ops.build_params(sources, destinations, stream)
                    # Work on that stream: a copy that is not on it lacks an order, which hostcann can report.
                    with torch.npu.stream(stream):
                        for tensor in device.values():
                            tensor.add_(0)
                    cuda_mem_ops.copy_blocks(froms, tos, parameters)
                    stream.synchronize()
                    wrong += [
                        f"round {round_}: {froms} to {tos} in region {key}"
                        for key, tensor in destinations.items()
                        if not torch.equal(tensor.cpu(), expected[key])
                    ]
            return wrong + [name for name in counts()["aclnn"] if name.startswith("copy_blocks")]
    finally:
        _kernels.STAGING_BYTES = before


def replicas_of_experts(name: str) -> list[list[dict[str, Any]]]:
    """For each rank of an engine and each layer, whose replicas lie where, and how many choices were counted."""

    def run(worker: Any) -> list[dict[str, Any]]:
        (state,) = worker.model_runner.eplb_state.model_states.values()
        counted = state.expert_load_window.sum(dim=(0, 2)).tolist()
        return [
            {"replicas": replicas, "chosen": chosen}
            for replicas, chosen in zip(state.physical_to_logical_map.tolist(), counted, strict=True)
        ]

    found: list[list[dict[str, Any]]] = ENGINES[name].collective_rpc(run)
    return found


def traced_ranks(name: str, prompts: list[Any], params: Any) -> dict[str, Any]:
    """Answers, and what each rank of a tensor-parallel engine launched and sent for them."""
    from tests.end_to_end.engine_functions import generate

    def start(worker: Any) -> None:
        from ascend_patch.hostcann import trace

        worker.recording = trace.recording()
        worker.counts = worker.recording.__enter__()

    def stop(worker: Any) -> Any:
        counts = worker.counts()
        worker.recording.__exit__(None, None, None)
        return {kind: counts[kind] for kind in ("aclnn", "hccl")}

    ENGINES[name].collective_rpc(start)
    answers = generate(name, prompts, params)
    return {"answers": answers, "ranks": ENGINES[name].collective_rpc(stop)}
