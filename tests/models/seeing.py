"""Small models that see, with random weights: Qwen2.5-VL, Qwen3-VL, and LLaVA with a CLIP tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.families import LONGEST, SEED, VOCABULARY, draw

# The last entries of the vocabulary; the processors look for them in a text.
SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<image>", "<pad>", "<bos>", "<eos>")
WORDS = VOCABULARY - len(SPECIAL)
TOKENS: dict[str, int] = {name: WORDS + index for index, name in enumerate(SPECIAL)}
# Qwen3-VL's prompts say when each pair of a video's frames is. These words, and marks of sounds, are before `SPECIAL`.
TIMES = [*(f"<{tenths / 10:.1f}" for tenths in range(100)), "seconds>"]
SOUNDS = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")

LANGUAGE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": LONGEST,
    "bos_token_id": TOKENS["<bos>"],
    "eos_token_id": TOKENS["<eos>"],
    "pad_token_id": TOKENS["<pad>"],
    "tie_word_embeddings": False,
    "initializer_range": 0.12,
    "rope_theta": 10000.0,
}
_MARKS: dict[str, Any] = {
    "vision_start_token_id": TOKENS["<|vision_start|>"],
    "vision_end_token_id": TOKENS["<|vision_end|>"],
    "image_token_id": TOKENS["<|image_pad|>"],
    "video_token_id": TOKENS["<|video_pad|>"],
    "tie_word_embeddings": False,
}
_VISION: dict[str, Any] = {
    "depth": 3,
    "num_heads": 2,
    "in_channels": 3,
    "intermediate_size": 192,
    "out_hidden_size": 128,
    "initializer_range": 0.12,
}

# name -> (configuration class, model class, vision options, language options, others). The vision towers have the
# published models' sizes per head: 80, 72 and 64.
SEEING: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # All layers but one attend inside windows of 4 x 4 merged patches; positions have three parts, in sections.
    "qwen2.5-vl": (
        "Qwen2_5_VLConfig",
        "Qwen2_5_VLForConditionalGeneration",
        {**_VISION, "hidden_size": 160, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]},
        {
            **LANGUAGE,
            "rope_scaling": {"rope_type": "default", "type": "default", "mrope_section": [8, 12, 12]},
        },
        _MARKS,
    ),
    # Features of inner vision layers enter the language model as well; the parts of its positions are interleaved.
    "qwen3-vl": (
        "Qwen3VLConfig",
        "Qwen3VLForConditionalGeneration",
        {
            **_VISION,
            "hidden_size": 144,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        {
            **LANGUAGE,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [11, 11, 10]},
        },
        _MARKS,
    ),
    # All patches of an image attend to each other; positions are plain.
    "llava": (
        "LlavaConfig",
        "LlavaForConditionalGeneration",
        {
            "model_type": "clip_vision_model",
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 84,
            "patch_size": 14,
            "projection_dim": 128,
            "initializer_range": 0.12,
        },
        {**LANGUAGE, "model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        {
            "image_token_index": TOKENS["<image>"],
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": False,
        },
    ),
}


def has_windows(name: str) -> bool:
    """Whether layers of the vision tower attend inside windows."""
    return "window_size" in SEEING[name][2]


def write(name: str, folder: str) -> None:
    """Save a model in float32, its tokenizer and the settings of its processor into `folder`."""
    import torch
    import transformers

    config_class, model_class, vision, language, others = SEEING[name]
    config = getattr(transformers, config_class)(vision_config=vision, text_config=language, **others)
    torch.manual_seed(SEED + list(SEEING).index(name))
    config._attn_implementation = "eager"
    model = getattr(transformers, model_class)(config).float()
    draw(model)
    model.save_pretrained(folder)
    if name == "llava":
        _name_as_published(Path(folder) / "model.safetensors")
    tokenizer().save_pretrained(folder)
    image_processor(name).save_pretrained(folder)


def _name_as_published(file: Path) -> None:
    """Published LLaVA checkpoints' names, which vLLM knows; releases of transformers 5 add a level or leave one out."""
    from safetensors.torch import load_file, save_file

    tower, level = "vision_tower.", "vision_model."
    named = {}
    for key, value in load_file(file).items():
        published = key.removeprefix("model.")
        if published.startswith(tower) and not published.startswith(tower + level):
            published = published.replace(tower, tower + level)
        named[published] = value
    save_file(named, file, metadata={"format": "pt"})


def tokenizer() -> Any:
    """One whose words are `t0`, `t1` and so on, `TIMES`, and marks for pictures, videos and sounds."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    names = [*TIMES, *SOUNDS]
    names = [*(f"t{number}" for number in range(WORDS - len(names))), *names]
    core = Tokenizer(WordLevel({**{name: number for number, name in enumerate(names)}, **TOKENS}, unk_token="t0"))
    core.pre_tokenizer = WhitespaceSplit()
    core.add_special_tokens([AddedToken(token, special=True) for token in (*SOUNDS, *SPECIAL)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="t0"
    )


def image_processor(name: str) -> Any:
    """How the model's pictures are cut to size."""
    from tests.models.sight import class_with_pil

    if name == "llava":
        side = SEEING[name][2]["image_size"]
        options: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        return class_with_pil("CLIPImageProcessor")(**options)
    patch = SEEING[name][2]["patch_size"]
    token = (2 * patch) ** 2  # pixels
    return class_with_pil("Qwen2VLImageProcessor")(patch_size=patch, min_pixels=4 * token, max_pixels=100 * token)
