"""A stream of requests with aborts on two devices, for as long as asked: no wrong token, nothing left, no growth.

    python benchmarks/soak.py [--minutes 30] [--tensor-parallel-size 2] [--clients 12]

A small Llama with random weights in float32. What transformers says greedily to a pool of prompts is computed first;
every token that the engine returns is compared with it. About every third request is aborted half way.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
LONGEST_ANSWER = 48
PROMPTS = 24
SETTLED_AFTER = 0.2
"""Share of the time after which memory should not grow any more."""
ALLOWED_GROWTH = 1.05
ABORTED = 0.3


def pool(seed: int) -> list[list[int]]:
    """Prompts of 3 to 300 tokens, some of which begin alike."""
    draw = random.Random(seed)
    prompts: list[list[int]] = []
    for _ in range(PROMPTS):
        start = draw.choice(prompts)[:130] if prompts and draw.random() < 0.3 else []
        prompts.append(start + [draw.randrange(2, 512) for _ in range(draw.randrange(3, 170))])
    return prompts


def references(folder: str, prompts: list[list[int]]) -> list[list[int]]:
    """transformers' greedy tokens, in a process of their own, on the CPU."""
    import json
    import subprocess

    code = (
        "import json, sys; from tests.models import families, reference; families.write('llama', sys.argv[1]);"
        "answers = reference.greedy(sys.argv[1], 'float32', json.load(sys.stdin), int(sys.argv[2]));"
        "print(json.dumps([answer['token_ids'] for answer in answers]))"
    )
    # transformers imports an installed torch-npu, which needs a CANN; it computes on the CPU all the same.
    plain = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", code, folder, str(LONGEST_ANSWER)]
    done = subprocess.run(
        command, input=json.dumps(prompts), env=plain, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True
    )
    answers: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def memory() -> dict[str, int]:
    """Private bytes of every process of this instance, by name."""
    import psutil

    me = psutil.Process()
    sizes = {}
    for number, process in enumerate([me, *me.children(recursive=True)]):
        try:
            found = process.memory_info()
            sizes[f"{number} {process.name()}"] = found.rss - found.shared
        except psutil.NoSuchProcess:
            continue
    return sizes


async def client(engine: Any, number: int, until: float, prompts: list[list[int]], expected: list[list[int]],
                 seen: Counter[str]) -> None:  # fmt: skip
    """One request after the other; each answer is compared, each abort leaves the stream half way."""
    from vllm import SamplingParams, TokensPrompt

    draw = random.Random(number)
    while time.monotonic() < until:
        chosen = draw.randrange(len(prompts))
        count = draw.randrange(1, LONGEST_ANSWER + 1)
        leave_at = draw.randrange(1, count + 1) if draw.random() < ABORTED else None
        name = f"client-{number}-{seen['requests']}-{time.monotonic_ns()}"
        seen["requests"] += 1
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        tokens: list[int] = []
        async for output in engine.generate(TokensPrompt(prompt_token_ids=prompts[chosen]), params, name):
            tokens = list(output.outputs[0].token_ids)
            if leave_at is not None and len(tokens) >= leave_at:
                break
        if leave_at is not None and leave_at < count:
            await engine.abort(name)
            seen["aborted"] += 1
        elif len(tokens) != count:
            seen["too short"] += 1
        seen["tokens"] += len(tokens)
        if tokens != expected[chosen][: len(tokens)]:
            seen["wrong"] += 1
            print(f"prompt {chosen}: {tokens} instead of {expected[chosen][: len(tokens)]}", flush=True)


async def watch(until: float, samples: list[dict[str, int]]) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(10)
        samples.append(memory())


async def soak(folder: str, arguments: argparse.Namespace) -> int:
    before = shared_memory()
    prompts = pool(arguments.seed)
    expected = references(folder, prompts)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=folder, dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=512,
            max_num_seqs=arguments.clients, max_num_batched_tokens=256, gpu_memory_utilization=0.05,
            # Few blocks: requests are preempted and resumed as well.
            kv_cache_memory_bytes=arguments.cache_mib << 20,
            tensor_parallel_size=arguments.tensor_parallel_size,
            distributed_executor_backend="mp" if arguments.tensor_parallel_size > 1 else None,
        )
    )  # fmt: skip
    seen: Counter[str] = Counter()
    samples: list[dict[str, int]] = []
    begun = time.monotonic()
    until = begun + 60 * arguments.minutes
    clients = [client(engine, number, until, prompts, expected, seen) for number in range(arguments.clients)]
    await asyncio.gather(*clients, watch(until, samples))
    taken = time.monotonic() - begun
    left = await unfinished(engine)
    engine.shutdown()
    # Others on this machine may have added some: shown, not judged.
    segments = sorted(shared_memory() - before)
    settled = samples[int(len(samples) * SETTLED_AFTER)] if samples else {}
    growth = {name: samples[-1].get(name, 0) / size for name, size in settled.items()}
    print(f"{taken / 60:.1f} minutes, tensor parallel size {arguments.tensor_parallel_size}: {dict(seen)}")
    for name, size in settled.items():
        print(f"  {name}: {size >> 20} MiB when settled, {samples[-1].get(name, 0) >> 20} MiB at the end")
    print(f"  left in the engine: {left}; new in /dev/shm: {segments}")
    grown = [name for name, ratio in growth.items() if ratio > ALLOWED_GROWTH]
    failures = [f"{seen[kind]} {kind}" for kind in ("wrong", "too short") if seen[kind]]
    failures += [f"grown: {name}" for name in grown] + ([f"{left} unfinished"] if left else [])
    print("failed: " + "; ".join(failures) if failures else "passed")
    return 1 if failures else 0


async def unfinished(engine: Any) -> int:
    """Requests that the engine still holds, after it had time to let go."""
    for _ in range(50):
        count = int(engine.output_processor.get_num_unfinished_requests())
        if not count:
            return 0
        await asyncio.sleep(0.1)
    return count


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--tensor-parallel-size", type=int, default=2)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--cache-mib", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    os.environ.update(
        VLLM_ASCEND_AUTOPATCH="1",
        ASCEND_PATCH_DEVICE="host",
        HOSTCANN_DEVICES=str(arguments.tensor_parallel_size),
        VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
    )
    import ascend_patch  # noqa: F401 - before vLLM

    with tempfile.TemporaryDirectory() as folder:
        sys.exit(asyncio.run(soak(folder, arguments)))


if __name__ == "__main__":
    main()
