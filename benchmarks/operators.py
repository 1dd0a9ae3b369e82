"""Operators launched in a decode step, per layer and beside the layers, as hostcann's trace counts them.

    python benchmarks/operators.py [--dry-run]

Small models with dummy weights, in bfloat16 and eager mode: how many operators there are does not depend on sizes or
values. A model is run with two depths; the difference belongs to the layers in between. No time is measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
import readme

from tests.end_to_end.worker import Worker

# What a layer is; the first one of some families is dense, so depths begin at two.
MODELS = {
    "llama": "Llama, dense",
    "qwen3": "Qwen3, dense, norms of queries and keys",
    "mixtral": "Mixtral, experts",
    "qwen3-moe": "Qwen3-MoE, experts",
    "glm4-moe": "GLM-4-MoE, grouped experts and a shared one",
    "deepseek-v2-latent": "DeepSeek-V2, latent attention, grouped experts and a shared one",
}
DENSE_FIRST = ("glm4-moe", "deepseek-v2-latent")
DEPTHS = (2, 4)
PROMPTS = [[5, 6, 7, 8], [9, 10, 11]]
FEW, MANY = 2, 6
"""Tokens per answer of the two runs whose difference is whole decode steps."""


def per_step(worker: Worker, folder: str, depth: int) -> dict[str, float]:
    """Operators of a decode step by kind, and how often the host waits in it."""
    options: dict[str, Any] = {"dtype": "bfloat16", "load_format": "dummy", "skip_tokenizer_init": True}
    overrides = {"num_hidden_layers": depth}
    worker.call("load", name=folder, model=folder, hf_overrides=overrides, **options)
    seen = []
    for count in (MANY, FEW, MANY):  # the first run also does what is done once
        params = {"temperature": 0, "max_tokens": count, "ignore_eos": True, "detokenize": False}
        counts = worker.call("traced_counts", name=folder, prompts=PROMPTS, params=params)
        fused = sum(counts["aclnn"].values())
        seen.append({"fused": fused, "all": counts["launches"], "waits": counts["syncs"]})
    worker.call("unload", name=folder)
    _, few, many = seen
    return {kind: (many[kind] - few[kind]) / (MANY - FEW) for kind in many}


def rows(worker: Worker, folder: Path) -> list[str]:
    made = []
    for family, title in MODELS.items():
        path = str(folder / family)
        worker.call("make_family", family=family, folder=path)
        shallow, deep = (per_step(worker, path, depth) for depth in DEPTHS)
        layer = {kind: (deep[kind] - shallow[kind]) / (DEPTHS[1] - DEPTHS[0]) for kind in deep}
        rest = {kind: shallow[kind] - DEPTHS[0] * layer[kind] for kind in shallow}
        # Where the first layer is dense, the rest is not what is beside the layers.
        other = "-" if family in DENSE_FIRST else f"{rest['all']:g}"
        assert layer["waits"] == 0, (family, layer)
        made.append(f"| {title} | {layer['all']:g} | {layer['fused']:g} | {other} | {shallow['waits']:g} |")
    return made


def table() -> str:
    """The Markdown table."""
    release = version("vllm").partition("+")[0]
    head = (
        f"Counted by `python benchmarks/operators.py` on hostcann with vLLM {release}, greedy decoding; no NPU took "
        "part. Copies and views are not operators.\n\n"
        "| model | operators per layer | fused ones and kernels among them | beside the layers, per step | "
        "waits of the host, per step |\n|---|--:|--:|--:|--:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder) / "worker.log")
        try:
            lines = rows(worker, Path(folder))
        finally:
            worker.close()
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print the table, leave the files alone")
    dry_run: bool = parser.parse_args().dry_run
    readme.publish("operators", table() + "\n", dry_run=dry_run)


if __name__ == "__main__":
    main()
