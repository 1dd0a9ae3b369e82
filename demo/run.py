"""A real model on stock vLLM, an unmodified torch-npu and a CANN that runs on the CPU.

`make demo` calls this after the set-up. It asks SmolLM2-135M-Instruct three questions through vLLM's own
`LLM` class and ends with the patches that made it possible.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

# Decided before anything else is imported: this machine has no NPU, and the demo says so.
os.environ["ASCEND_PATCH_DEVICE"] = "host"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# A second process for the engine would import vLLM once more, for ten seconds and three questions.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import ascend_patch  # noqa: F401 - importing it activates the overlay

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "scripts"))
QUESTIONS = [
    "Name three primary colors.",
    "What is a neural network? Answer in one sentence.",
    "Write a haiku about the sea.",
]


def main() -> None:
    import demo_model

    begun = time.monotonic()
    print("\nSmolLM2-135M-Instruct on vLLM. The device is hostcann, a CANN on the CPU: nothing here is an NPU result.")
    print("Loading the engine ...", end="", flush=True)
    from vllm import LLM, SamplingParams

    # Small steps: vLLM profiles itself with the largest one, which the CPU takes seconds for.
    llm = LLM(str(demo_model.ensure()), dtype="bfloat16", max_model_len=512, max_num_seqs=4,
              max_num_batched_tokens=512, kv_cache_memory_bytes=256 << 20)  # fmt: skip
    print(f" {time.monotonic() - begun:.1f} s\n", flush=True)
    params = SamplingParams(temperature=0.0, max_tokens=64)
    begun = time.monotonic()
    results = llm.chat([[{"role": "user", "content": question}] for question in QUESTIONS], params, use_tqdm=False)
    elapsed = time.monotonic() - begun
    for question, result in zip(QUESTIONS, results, strict=True):
        print(f"> {question}\n{result.outputs[0].text.strip()}\n")
    tokens = sum(len(result.outputs[0].token_ids) for result in results)
    print(f"{tokens} tokens in {elapsed:.1f} s: {tokens / elapsed:.1f} tokens/s on the CPU (host CANN, not an NPU).\n")
    print("What the overlay did in this process (`ascend-patch status`):", flush=True)
    subprocess.run([str(Path(sys.executable).with_name("ascend-patch")), "status"], check=False)


if __name__ == "__main__":
    main()
