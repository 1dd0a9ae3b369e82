"""Functions that run inside a worker process and look at single layers and caches; see `engine_functions`."""

from __future__ import annotations

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
