"""One contender of the throughput benchmark: loads the model, then generates whenever it is told to.

    python generate_worker.py vllm|transformers MODEL_FOLDER

Reads JSON lines {"batch": n, "tokens": n} from its input and answers {"seconds": s, "tokens": n}. It imports
nothing from the checkout, so that it also runs in the environment of vLLM's own CPU build.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

# The same prompt lengths for every contender; token ids, so that no tokenizer takes part.
PROMPT_LENGTH = 64


def prompts(batch: int) -> list[list[int]]:
    return [[100 + (37 * index + 11 * number) % 40000 for index in range(PROMPT_LENGTH)] for number in range(batch)]


def with_vllm(model: str) -> Callable[[int, int], int]:
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(model, dtype="bfloat16", max_model_len=1024, max_num_seqs=8,
              enable_prefix_caching=False, kv_cache_memory_bytes=256 << 20)  # fmt: skip

    def run(batch: int, count: int) -> int:
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        inputs: list[Any] = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts(batch)]
        results = llm.generate(inputs, params, use_tqdm=False)
        return sum(len(result.outputs[0].token_ids) for result in results)

    return run


def with_transformers(model: str) -> Callable[[int, int], int]:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()

    def run(batch: int, count: int) -> int:
        inputs = torch.tensor(prompts(batch))
        mask = torch.ones_like(inputs)
        with torch.no_grad():
            made = loaded.generate(inputs, attention_mask=mask, do_sample=False, min_new_tokens=count,
                                   max_new_tokens=count)  # fmt: skip
        return int(made[:, PROMPT_LENGTH:].numel())

    return run


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kind, model = sys.argv[1:]
    run = {"vllm": with_vllm, "transformers": with_transformers}[kind](model)
    run(1, 8)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        begun = time.perf_counter()
        tokens = run(request["batch"], request["tokens"])
        answers.write(json.dumps({"seconds": time.perf_counter() - begun, "tokens": tokens}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
