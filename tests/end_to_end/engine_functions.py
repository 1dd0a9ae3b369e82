"""Functions that run inside a worker process, next to vLLM and the overlay.

Imports of torch and vLLM stay inside the functions: this module loads before the overlay is active.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENGINES: dict[str, Any] = {}
SILENCED: list[Any] = []
SMALL_CACHE_BYTES = 64 << 20


def load(name: str, model: str, **options: Any) -> dict[str, Any]:
    """Create an `LLM` and keep it under `name`; says what vLLM made of the options."""
    from vllm import LLM
    from vllm.model_executor.models import registry

    # vLLM looks at each class of models in a process of its own, which imports everything, so that CUDA does not start
    # in this one. Servers do so in the tests as well.
    registry._run_in_subprocess = lambda look: look()
    settings: dict[str, Any] = {
        "max_model_len": 512,
        "max_num_seqs": 8,
        "enforce_eager": True,
        "kv_cache_memory_bytes": SMALL_CACHE_BYTES,
        # Several engines share the device: each asks for a small part of it.
        "gpu_memory_utilization": 0.05,
        **options,
    }
    # vLLM collects garbage some ten times while an engine starts, which takes most of the time of a small one if all
    # modules are looked through. What is there already is none; `unload` looks at it again.
    gc.freeze()
    llm = LLM(model, **settings)
    ENGINES[name] = llm
    config = llm.llm_engine.vllm_config
    return {
        "device": config.device_config.device_type,
        "block_size": config.cache_config.block_size,
        "num_blocks": config.cache_config.num_gpu_blocks,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "async_scheduling": bool(config.scheduler_config.async_scheduling),
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
    }


def unload(name: str) -> None:
    """Give up an engine, its weights and its KV cache; beside others only its name.

    vLLM's shutdown destroys the process groups, which all engines of a process share. They share the KV connector as
    well, and one of an engine that is gone would ask the others for its metadata.
    """
    from vllm.distributed.kv_transfer import ensure_kv_transfer_shutdown

    llm = ENGINES.pop(name)
    if ENGINES:
        SILENCED.append(llm)
        ensure_kv_transfer_shutdown()
        return
    with one_collection():
        llm.llm_engine.engine_core.shutdown()
    close_sockets()
    if getattr(llm.llm_engine, "dp_group", None) is not None:
        # vLLM does this when the interpreter ends, where what it needs for it is gone already.
        from vllm.distributed.utils import stateless_destroy_torch_distributed_process_group

        stateless_destroy_torch_distributed_process_group(llm.llm_engine.dp_group)
        llm.llm_engine.dp_group = None
    del llm
    # What vLLM asks of those who go on in the same process; from 0.19 on the engine does it on its own. Process groups
    # of a dense model would lack the one of experts, and the heap that an engine freezes holds the engine itself.
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.utils.func_utils import supports_kw

    if hasattr(supports_kw, "cache_clear"):
        supports_kw.cache_clear()  # up to 0.18 it holds a bound method of the model
    gc.unfreeze()
    cleanup_dist_env_and_memory()


@contextmanager
def one_collection() -> Iterator[None]:
    """Leave garbage for later: an engine that ends collects it six times, and `unload` does at its end."""
    collect, gc.collect = gc.collect, lambda generation=2: 0
    try:
        yield
    finally:
        gc.collect = collect


def close_sockets() -> None:
    """Close what an engine that has ended left open.

    vLLM 0.23 leaves the sockets of its message queues, and their context, to the collector of garbage. That may take
    the context first, whose end then waits for sockets that the same thread was about to close. Newer ones close them.
    """
    import zmq
    from vllm.distributed.device_communicators import shm_broadcast

    if hasattr(shm_broadcast, "_close_zmq"):
        return
    gc.unfreeze()
    for thing in gc.get_objects():
        if issubclass(type(thing), zmq.Socket) and not thing.closed:
            thing.close(linger=0)


def generate(name: str, prompts: list[Any], params: Any, chat: bool = False) -> list[dict[str, Any]]:
    """Run prompts (texts, or lists of token ids) with one set of parameters, or one set for each."""
    from vllm import SamplingParams, TokensPrompt

    each = params if isinstance(params, list) else [params] * len(prompts)
    inputs = [prompt if isinstance(prompt, str) else TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    sampling = [SamplingParams(**structured(options)) for options in each]
    if chat:
        messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
        results = ENGINES[name].chat(messages, sampling, use_tqdm=False)
    else:
        results = ENGINES[name].generate(inputs, sampling, use_tqdm=False)
    return [describe(result) for result in results]


def structured(options: dict[str, Any]) -> dict[str, Any]:
    """Turn what JSON cannot say into vLLM's own types."""
    if "logit_bias" in options:
        options = {**options, "logit_bias": {int(token): bias for token, bias in options["logit_bias"].items()}}
    if "structured_outputs" not in options:
        return options
    from vllm.sampling_params import StructuredOutputsParams

    return {**options, "structured_outputs": StructuredOutputsParams(**options["structured_outputs"])}


def describe(result: Any) -> dict[str, Any]:
    outputs = [
        {
            "token_ids": list(output.token_ids),
            "text": output.text,
            "finish_reason": output.finish_reason,
            "logprobs": None if output.logprobs is None else [plain(position) for position in output.logprobs],
        }
        for output in result.outputs
    ]
    prompt_logprobs = result.prompt_logprobs
    return {
        **outputs[0],
        "outputs": outputs,
        "prompt_token_ids": list(result.prompt_token_ids or []),
        "prompt_logprobs": None if not prompt_logprobs else [plain(position) for position in prompt_logprobs[1:]],
        "cached_tokens": result.num_cached_tokens,
    }


def plain(position: Any) -> dict[str, float]:
    """One position's log-probabilities, keyed by token id as text (JSON has no other keys)."""
    return {str(token): value.logprob for token, value in position.items()}


def make_family(family: str, folder: str) -> dict[str, Any]:
    """Write a small model with random weights; see `tests.models.families`."""
    from tests.models import families

    return families.write(family, folder)


def make_quantised(source: str, folder: str, scheme: str) -> None:
    """Write a family's model with int8 layers; see `tests.models.quantised`."""
    from tests.models import families, quantised

    quantised.write(source, folder, scheme, families.prompts())


def make_int8_cache(source: str, folder: str, kind: str) -> None:
    """Write a family's model whose keys and values are kept as int8; see `tests.models.int8_caches`."""
    from tests.models import families, int8_caches

    int8_caches.write(source, folder, kind, families.prompts())


def make_packed(source: str, folder: str, scheme: str) -> None:
    """Write a family's model in GPTQ's or AWQ's format; see `tests.models.packed`."""
    from tests.models import packed

    packed.write(source, folder, scheme)


def add_tensor(folder: str, name: str) -> None:
    """Put an int32 of zero into a checkpoint."""
    import torch
    from safetensors.torch import save_file

    save_file({name: torch.zeros(1, dtype=torch.int32)}, f"{folder}/more.safetensors", metadata={"format": "pt"})


def reference_greedy(folder: str, dtype: str, prompts: list[list[int]], count: int, **changes: Any) -> Any:
    """Greedy tokens and the two best logits of every position from transformers on the CPU."""
    from tests.models import reference

    return reference.greedy(folder, dtype, prompts, count, **changes)


def reference_logits(folder: str, dtype: str, tokens: list[int], **changes: Any) -> Any:
    """The logits of every position of one sequence from transformers on the CPU."""
    from tests.models import reference

    return reference.logits(folder, dtype, tokens, **changes)


def reference_logits_with_routers(**arguments: Any) -> Any:
    """See `tests.models.reference.logits_with_routers`."""
    from tests.models import reference

    return reference.logits_with_routers(**arguments)


def routers_of(name: str, tokens: list[int]) -> dict[str, list[list[float]]]:
    """What each router of a loaded model says about each token of a prompt, ``[len(tokens)][experts]``, by its name."""
    llm = ENGINES[name]
    model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    said: dict[str, list[list[float]]] = {}

    def note(router: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            rows = output[0] if isinstance(output, tuple) else output
            said.setdefault(router, rows.float().tolist()[: len(tokens)])

        return hook

    routers = {path: module for path, module in model.named_modules() if path.endswith(".mlp.gate")}
    hooks = [module.register_forward_hook(note(path)) for path, module in routers.items()]
    llm.reset_prefix_cache()  # each token is to pass the routers
    generate(name, [tokens], {"max_tokens": 1, "temperature": 0, "detokenize": False})
    for hook in hooks:
        hook.remove()
    return said


def make_encoder(encoder: str, folder: str) -> None:
    """Save a small model for pooling; see `tests.models.encoders`."""
    from tests.models import encoders

    encoders.write(encoder, folder)


def make_draft_target(kind: str, folder: str) -> None:
    """Save the model that heads of a kind draft for; see `tests.models.drafters`."""
    from tests.models import drafters

    drafters.write_target(kind, folder)


def make_drafter(**arguments: Any) -> list[dict[str, Any]]:
    """Train a head and say what becomes of its drafts; see `tests.models.drafters.write`."""
    from tests.models import drafters

    return drafters.write(**arguments)


def reference_hidden_states(folder: str, prompts: list[list[int]], **changes: Any) -> list[list[list[float]]]:
    """See `tests.models.reference.hidden_states`."""
    from tests.models import reference

    return reference.hidden_states(folder, prompts, **changes)


def reference_class_logits(folder: str, prompts: list[Any]) -> list[list[float]]:
    """See `tests.models.reference.class_logits`."""
    from tests.models import reference

    return reference.class_logits(folder, prompts)


def reference_rewards(folder: str, prompts: list[Any]) -> list[list[list[float]]]:
    """See `tests.models.reference.rewards`."""
    from tests.models import reference

    return reference.rewards(folder, prompts)


def reference_sentences(folder: str, texts: list[str]) -> list[list[float]]:
    """See `tests.models.reference.sentences`."""
    from tests.models import reference

    return reference.sentences(folder, texts)


def pool(name: str, prompts: list[Any], task: str, **params: Any) -> list[Any]:
    """What a pooling engine makes of each prompt: ``embed``, ``classify``, or rows of tokens for ``token_classify``."""
    from vllm import PoolingParams, TokensPrompt

    inputs = [prompt if isinstance(prompt, str) else TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    options: dict[str, Any] = {"use_tqdm": False, "pooling_params": PoolingParams(**params) if params else None}
    if task == "token_classify":
        return [result.outputs.data.tolist() for result in ENGINES[name].encode(inputs, pooling_task=task, **options)]
    results = getattr(ENGINES[name], task)(inputs, **options)
    return [list(result.outputs.embedding if task == "embed" else result.outputs.probs) for result in results]


def score(name: str, pairs: list[tuple[str, str]]) -> list[float]:
    """The scores of pairs of texts."""
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    return [result.outputs.score for result in ENGINES[name].score(firsts, seconds, use_tqdm=False)]


def status() -> dict[str, str]:
    """The state of each patch in this process."""
    import ascend_patch

    return {patch.id: patch.state for patch in ascend_patch.status()}


def loaded_packages() -> dict[str, str]:
    """Where the packages that matter come from."""
    import sys

    names = ("vllm", "torch", "torch_npu", "ascend_patch")
    return {name: str(sys.modules[name].__file__) for name in names if name in sys.modules}


def traced_operators(name: str, prompts: list[Any], params: Any) -> list[str]:
    """Generate, and name the device operators that hostcann saw meanwhile, kernels among them."""
    from ascend_patch.hostcann import trace

    with trace.recording() as counts:
        generate(name, prompts, params)
        return sorted(counts()["aclnn"])


def traced_counts(name: str, prompts: list[Any], params: Any) -> dict[str, Any]:
    """Generate, and count what hostcann saw meanwhile: calls per operator, launches and host synchronisations."""
    from ascend_patch.hostcann import trace

    with trace.recording() as counts:
        generate(name, prompts, params)
        seen = counts()
    calls = {
        kind: {op: count["calls"] for op, count in seen[kind].items()} for kind in ("aclnn", "aten", "copy", "sync")
    }
    return {**calls, "launches": seen["launches"], "syncs": seen["syncs"]}


def model_runner(name: str) -> str:
    """The module of the class that runs an engine's model."""
    found: list[str] = ENGINES[name].collective_rpc(lambda worker: type(worker.model_runner).__module__)
    return found[0]


def accepted_drafts(name: str) -> tuple[int, int]:
    """How many draft tokens an engine has proposed so far, and how many of them were accepted."""
    values = {metric.name: getattr(metric, "value", 0) for metric in ENGINES[name].get_metrics()}
    drafted = values["vllm:spec_decode_num_draft_tokens"]
    return int(drafted), int(values["vllm:spec_decode_num_accepted_tokens"])


def facts_of_the_process() -> dict[str, Any]:
    """What a worker is before vLLM is in it."""
    import os
    import sys

    return {
        "kernels": os.environ.get("ASCEND_PATCH_KERNELS"),
        "soc": os.environ.get("HOSTCANN_SOC"),
        "vllm_modules": [name for name in sys.modules if name.partition(".")[0] == "vllm"],
        "group_leader": os.getpgrp() == os.getpid(),
    }
