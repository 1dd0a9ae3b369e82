"""A small model that hears, with random weights: Whisper with four seconds of sound, and sounds for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.models.families import LONGEST, SEED, VOCABULARY, draw

# Two layers on either side; the encoder says two hundred tokens, which do not fill their second block of cache.
LAYERS = 2
SECONDS = 4
ENCODED = 50 * SECONDS  # two frames of 10 ms each
RATE = 16000  # samples per second
START = "<bos>"
WORDS = 320  # of Whisper's own kind of tokenizer, beside single characters


def sound(seed: int) -> Any:
    """``[SECONDS * RATE]`` float32: tones that come and go, and noise; no two seeds sound alike."""
    import numpy as np

    random = np.random.default_rng(seed)
    time = np.arange(SECONDS * RATE) / RATE
    wave = 0.05 * random.standard_normal(time.shape)
    for frequency, start in zip(random.uniform(100, 4000, 8), random.uniform(0, SECONDS - 1, 8), strict=True):
        wave += 0.2 * np.sin(2 * np.pi * frequency * time) * ((time > start) & (time < start + 1))
    return wave.astype(np.float32)


def recording(seed: int) -> bytes:
    """`sound` as a WAV file of 16 bits per sample."""
    import io
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes(_in_16_bits(seed).tobytes())
    return file.getvalue()


def _in_16_bits(seed: int) -> Any:
    import numpy as np

    return np.round(sound(seed).clip(-1, 1) * 32767).astype("<i2")


def heard(seed: int) -> Any:
    """What is read from `recording`, ``[SECONDS * RATE]`` float32."""
    return _in_16_bits(seed).astype("float32") / 32768


def asked(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt as vLLM takes it: `text` to the decoder, and the `sound` or `recording` of a seed to the encoder."""
    # With its rate, vLLM up to 0.14 would resample it to the same rate, with a library that is not there.
    samples = heard(prompt["recording"]) if "recording" in prompt else sound(prompt["sound"])
    audio = {"prompt": "", "multi_modal_data": {"audio": samples}}
    return {"encoder_prompt": audio, "decoder_prompt": prompt["text"]}


def read(folder: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt as transformers takes it."""
    made = processor(folder)
    heard = made.feature_extractor(sound(prompt["sound"]), sampling_rate=RATE, return_tensors="pt")
    ids = made.tokenizer(prompt["text"], return_tensors="pt")["input_ids"]
    return {"input_features": heard["input_features"], "decoder_input_ids": ids}


def plain_words_processor(kind: Any, tokenizer: str, folder: str) -> Any:
    """The processor of class `kind` for the model in `folder`, with a tokenizer of plain words.

    Args:
        tokenizer: the class that transformers before 5 asks for.
    """
    import transformers

    words = tokenizer if transformers.__version__ < "5" else "PreTrainedTokenizerFast"
    return kind(
        feature_extractor=transformers.WhisperFeatureExtractor.from_pretrained(folder),
        tokenizer=getattr(transformers, words).from_pretrained(folder),
    )


def processor(folder: str) -> Any:
    """`plain_words_processor` of Whisper."""
    import transformers

    return plain_words_processor(transformers.WhisperProcessor, "WhisperTokenizerFast", folder)


def read_with(kind: Any, read: Callable[[str], Any]) -> None:
    """Let vLLM get processors of class `kind` whose tokenizer knows plain words, not pairs of bytes."""
    kind.from_pretrained = classmethod(lambda cls, folder, *args, **options: read(folder))


def read_with_plain_words() -> None:
    """`read_with` for Whisper."""
    import transformers

    read_with(transformers.WhisperProcessor, processor)


def write(folder: str) -> None:
    """Save a model in float32, its tokenizer and the settings of its feature extractor into `folder`."""
    from tests.models import seeing

    special = {"bos": seeing.TOKENS[START], "eos": seeing.TOKENS["<eos>"], "pad": seeing.TOKENS["<pad>"]}
    _model(VOCABULARY, start=special["bos"], **special).save_pretrained(folder)
    seeing.tokenizer().save_pretrained(folder)
    _extractor().save_pretrained(folder)


def write_for_a_server(folder: str) -> None:
    """The same with a tokenizer like Whisper's own, which the server's prompts are made for."""
    import torch
    import transformers

    words = _tokenizer_of_whisper(folder)
    end = words.convert_tokens_to_ids("<|endoftext|>")
    start = words.convert_tokens_to_ids("<|startoftranscript|>")
    model = _model(len(words), start=start, bos=end, eos=end, pad=end)
    with torch.no_grad():  # the answers are words, and do not end before they have to
        embedding = model.model.decoder.embed_tokens.weight
        embedding[: end - WORDS] *= 0.5
        embedding[end:] *= 0.5
        embedding[end] *= 0.1
    model.save_pretrained(folder)
    transformers.WhisperProcessor(feature_extractor=_extractor(), tokenizer=words).save_pretrained(folder)


def _tokenizer_of_whisper(folder: str) -> Any:
    """Characters, words, and Whisper's marks behind them: the end, the start, languages, tasks, times."""
    import json
    from pathlib import Path

    import transformers
    from tokenizers import AddedToken
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    texts = [*map(chr, range(33, 127)), "\u0120", *(f"\u0120w{number}" for number in range(WORDS)), "<|endoftext|>"]
    vocabulary = {text: number for number, text in enumerate(texts)}
    tasks = ["translate", "transcribe", "startoflm", "prev", "nospeech", "notimestamps"]
    marks = ["startoftranscript", *LANGUAGES, *tasks]
    times = [f"{0.02 * number:.2f}" for number in range(50 * SECONDS + 1)]
    if transformers.__version__ < "5":
        files = {"vocab_file": Path(folder, "vocab.json"), "merges_file": Path(folder, "merges.txt")}
        Path(folder).mkdir(parents=True, exist_ok=True)
        files["vocab_file"].write_text(json.dumps(vocabulary))
        files["merges_file"].write_text("#version: 0.2\n")
        made = transformers.WhisperTokenizerFast(**{name: str(file) for name, file in files.items()})
    else:
        made = transformers.WhisperTokenizer(vocab=vocabulary, merges=[])
    made.add_tokens([AddedToken(f"<|{mark}|>", special=True) for mark in marks], special_tokens=True)
    made.add_tokens([AddedToken(f"<|{time}|>", special=False) for time in times])
    return made


def _extractor() -> Any:
    import transformers

    return transformers.WhisperFeatureExtractor(chunk_length=SECONDS)


def _model(vocabulary: int, *, start: int, bos: int, eos: int, pad: int) -> Any:
    import torch
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=vocabulary,
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
        decoder_start_token_id=start,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
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
    return model
