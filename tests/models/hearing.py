"""A small model that hears, with random weights: Whisper with four seconds of sound, and sounds for it."""

from __future__ import annotations

from typing import Any

from tests.models.families import LONGEST, SEED, VOCABULARY, draw

# Two layers on either side; the encoder says two hundred tokens, which do not fill their second block of cache.
LAYERS = 2
SECONDS = 4
ENCODED = 50 * SECONDS  # two frames of 10 ms each
RATE = 16000  # samples per second
START = "<bos>"


def sound(seed: int) -> Any:
    """``[SECONDS * RATE]`` float32: tones that come and go, and noise; no two seeds sound alike."""
    import numpy as np

    random = np.random.default_rng(seed)
    time = np.arange(SECONDS * RATE) / RATE
    wave = 0.05 * random.standard_normal(time.shape)
    for frequency, start in zip(random.uniform(100, 4000, 8), random.uniform(0, SECONDS - 1, 8), strict=True):
        wave += 0.2 * np.sin(2 * np.pi * frequency * time) * ((time > start) & (time < start + 1))
    return wave.astype(np.float32)


def asked(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt as vLLM takes it: `text` to the decoder, and the `sound` of a seed to the encoder."""
    # With its rate, vLLM up to 0.14 would resample it to the same rate, with a library that is not there.
    audio = {"prompt": "", "multi_modal_data": {"audio": sound(prompt["sound"])}}
    return {"encoder_prompt": audio, "decoder_prompt": prompt["text"]}


def read(folder: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt as transformers takes it."""
    made = processor(folder)
    heard = made.feature_extractor(sound(prompt["sound"]), sampling_rate=RATE, return_tensors="pt")
    ids = made.tokenizer(prompt["text"], return_tensors="pt")["input_ids"]
    return {"input_features": heard["input_features"], "decoder_input_ids": ids}


def processor(folder: str) -> Any:
    """The processor of the model in `folder`, with a tokenizer of plain words."""
    import transformers

    words = "WhisperTokenizerFast" if transformers.__version__ < "5" else "PreTrainedTokenizerFast"
    return transformers.WhisperProcessor(
        feature_extractor=transformers.WhisperFeatureExtractor.from_pretrained(folder),
        tokenizer=getattr(transformers, words).from_pretrained(folder),
    )


def read_with_plain_words() -> None:
    """Let vLLM get processors whose tokenizer knows plain words, not Whisper's pairs of bytes."""
    import transformers

    transformers.WhisperProcessor.from_pretrained = classmethod(  # type: ignore[method-assign]
        lambda cls, folder, *args, **options: processor(folder)
    )


def write(folder: str) -> None:
    """Save a model in float32, its tokenizer and the settings of its feature extractor into `folder`."""
    import torch
    import transformers

    from tests.models import seeing

    special = {"bos": seeing.TOKENS[START], "eos": seeing.TOKENS["<eos>"], "pad": seeing.TOKENS["<pad>"]}
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=128,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_source_positions=ENCODED,
        max_target_positions=LONGEST,
        init_std=0.12,
        decoder_start_token_id=special["bos"],
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=special["pad"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(SEED + 2)  # answers that vary
    config._attn_implementation = "eager"
    model = transformers.WhisperForConditionalGeneration(config).float()
    draw(model)
    with torch.no_grad():  # the head is the embedding, which `draw` has made small: logits of about 10 all the same
        model.model.decoder.layer_norm.weight.mul_(8)
        model.model.decoder.layer_norm.bias.mul_(8)
    model.save_pretrained(folder)
    seeing.tokenizer().save_pretrained(folder)
    transformers.WhisperFeatureExtractor(chunk_length=SECONDS).save_pretrained(folder)
