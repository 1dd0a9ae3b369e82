"""More functions for a worker process: LoRA adapters, and words for what their models answer.

See `engine_functions`.
"""

from __future__ import annotations

from typing import Any

from tests.end_to_end.engine_functions import ENGINES


def make_adapter(
    model: str,
    folder: str,
    merged: str,
    seed: int,
    rank: int = 8,
    words: bool = False,
    parts: tuple[str, ...] = ("",),
) -> None:
    """Write a LoRA adapter with random weights for every projection, and the model with that adapter merged into it.

    Both under the names of the checkpoint, which every transformers writes alike: each expert has its own there.

    Args:
        words: for the embedding and the head, too.
        parts: only for layers with one of these in their names.
    """
    import json
    import shutil
    from pathlib import Path

    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(seed)
    shutil.copytree(model, merged)
    alpha = 2 * rank
    spread = 0.1 * (8 / rank) ** 0.25  # every rank changes the weights alike
    weights, targets = {}, set()
    tensors = load_file(Path(merged) / "model.safetensors")
    for name in sorted(tensors):
        layer, _, kind = name.rpartition(".")
        embeds, router = layer.endswith("embed_tokens"), layer.endswith(".gate")
        if kind != "weight" or tensors[name].ndim != 2 or router or not any(part in layer for part in parts):
            continue
        if (embeds or layer == "lm_head") and not words:
            continue
        targets.add(layer.rpartition(".")[2])
        outputs, inputs = reversed(tensors[name].shape) if embeds else tensors[name].shape
        a = torch.randn(rank, inputs, generator=generator) * spread
        b = torch.randn(outputs, rank, generator=generator) * spread
        # peft's names, which say what an embedding's are.
        weights[f"base_model.model.{layer}.lora_{'embedding_A' if embeds else 'A.weight'}"] = a
        weights[f"base_model.model.{layer}.lora_{'embedding_B' if embeds else 'B.weight'}"] = b
        change = alpha / rank * b @ a
        tensors[name] = tensors[name] + (change.T if embeds else change)
    save_file(tensors, Path(merged) / "model.safetensors", metadata={"format": "pt"})
    Path(folder).mkdir(parents=True)
    save_file(weights, Path(folder) / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": sorted(targets), "bias": "none"}
    (Path(folder) / "adapter_config.json").write_text(json.dumps(config))


def add_tokenizer_of_words(folder: str) -> None:
    """Put a tokenizer beside a model; see `tests.models.seeing.tokenizer`."""
    from tests.models import seeing

    seeing.tokenizer().save_pretrained(folder)


def in_words(tokens: list[int]) -> str:
    """Tokens as that tokenizer writes them."""
    from tests.models import seeing

    text: str = seeing.tokenizer().decode(tokens)
    return text


def generate_with_adapters(name: str, prompts: list[Any], params: Any, adapters: list[str | None]) -> list[list[int]]:
    """The tokens of prompts, each with the adapter in a folder or with none."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.lora.request import LoRARequest

    folders = sorted({folder for folder in adapters if folder})
    requests = [LoRARequest(folder, folders.index(folder) + 1, folder) if folder else None for folder in adapters]
    inputs = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    results = ENGINES[name].generate(inputs, SamplingParams(**params), lora_request=requests, use_tqdm=False)
    return [list(result.outputs[0].token_ids) for result in results]
