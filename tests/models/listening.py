"""A small model whose prompts have sounds in them, with random weights: Qwen2-Audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.hearing import RATE, plain_words_processor, read_with, sound

LAYERS = 2
MARK = "<|audio_bos|><|AUDIO|><|audio_eos|>"


def sounds(prompt: dict[str, Any]) -> list[Any]:
    """A prompt's sounds: the beginnings, of so many seconds, of those of seeds."""
    return [sound(seed)[: int(seconds * RATE)] for seed, seconds in prompt["sounds"]]


def read(folder: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt as transformers takes it."""
    options: dict[str, Any] = {}
    if heard := sounds(prompt):
        options = {"audio": heard, "sampling_rate": RATE}
    return dict(processor(folder)(text=[prompt["text"]], return_tensors="pt", **options))


def processor(folder: str) -> Any:
    """The processor of the model in `folder`, with a tokenizer of plain words."""
    import transformers

    return plain_words_processor(transformers.Qwen2AudioProcessor, "Qwen2TokenizerFast", folder)


def read_with_plain_words() -> None:
    """Let vLLM get processors with such a tokenizer."""
    import transformers

    read_with(transformers.Qwen2AudioProcessor, processor)


def write(folder: str) -> None:
    """Save a model in float32, its tokenizer and the settings of its feature extractor into `folder`."""
    import torch
    import transformers

    from tests.models.families import SEED, draw
    from tests.models.seeing import LANGUAGE, tokenizer

    words = tokenizer()
    heads = {"encoder_layers": LAYERS, "encoder_attention_heads": 2, "encoder_ffn_dim": 256, "d_model": 128}
    config = transformers.Qwen2AudioConfig(
        audio_config={"num_mel_bins": 80, "initializer_range": 0.12, **heads},
        text_config={**LANGUAGE, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(SEED)
    config._attn_implementation = "eager"
    model = transformers.Qwen2AudioForConditionalGeneration(config).float()
    draw(model)
    model.save_pretrained(folder)
    _name_as_published(Path(folder) / "model.safetensors")
    words.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)


def _name_as_published(file: Path) -> None:
    """transformers 5.16 says `model` once more than published checkpoints, and than it reads itself."""
    from safetensors.torch import load_file, save_file

    named = {name.replace(".model.model.", ".model."): value for name, value in load_file(file).items()}
    save_file(named, file, metadata={"format": "pt"})
