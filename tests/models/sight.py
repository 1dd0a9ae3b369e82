"""Pictures, the processors that read them, and what transformers answers to them (and to sounds) on the CPU."""

from __future__ import annotations

from typing import Any

from tests.models import hearing

# A prompt is {"text": str, "images": [[width, height, seed], ...]}, or {"text": str, "sound": seed}.
Prompt = dict[str, Any]


def picture(width: int, height: int, seed: int) -> Any:
    """A PIL image of coloured rectangles and noise: no two seeds look alike, and no two regions of one."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), dtype=np.int64)
    for _ in range(12):
        top, left = random.integers(0, height), random.integers(0, width)
        pixels[top : top + height // 2, left : left + width // 2] = random.integers(0, 256, 3)
    pixels += random.integers(-40, 40, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def pictures(prompt: Prompt) -> list[Any]:
    """A prompt's images."""
    return [picture(*described) for described in prompt["images"]]


# model type -> (processor, image processor, tokenizer before transformers 5, video processor); image processors that
# work with PIL have names of their own since transformers 5.
_PARTS = {
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2TokenizerFast", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen2VLImageProcessor", "Qwen2TokenizerFast", "Qwen3VLVideoProcessor"),
    "llava": ("LlavaProcessor", "CLIPImageProcessor", "PreTrainedTokenizerFast", None),
}


def class_with_pil(name: str) -> Any:
    """The class of an image processor that needs no torchvision."""
    import transformers

    return getattr(transformers, f"{name}Pil") if hasattr(transformers, f"{name}Pil") else getattr(transformers, name)


def processor(folder: str) -> Any:
    """The processor of the model in `folder`, from its own tokenizer and the settings of its images."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    made, images, words, videos = _PARTS[config.model_type]
    own_words = words if transformers.__version__ < "5" else "PreTrainedTokenizerFast"
    parts = {
        "image_processor": class_with_pil(images).from_pretrained(folder),
        "tokenizer": getattr(transformers, own_words).from_pretrained(folder),
    }
    if videos is None:
        patches = {"patch_size": config.vision_config.patch_size, "num_additional_image_tokens": 1}
        parts = {**parts, **patches, "vision_feature_select_strategy": config.vision_feature_select_strategy}
    else:
        parts["video_processor"] = getattr(transformers, videos)()
    return getattr(transformers, made)(**parts)


def read_with_pil() -> None:
    """Let vLLM get processors that read pictures with PIL: transformers 5 would take torchvision for it."""
    import transformers

    for name, *_ in _PARTS.values():
        made = classmethod(lambda cls, folder, *args, **options: processor(folder))
        getattr(transformers, name).from_pretrained = made


def _load(folder: str, dtype: str) -> Any:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    options = {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    model, found = model_class.from_pretrained(folder, **options, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"], found
    return model.eval()


def _read(folder: str, prompt: Prompt) -> dict[str, Any]:
    if "sound" in prompt:
        return hearing.read(folder, prompt)
    return dict(processor(folder)(text=[prompt["text"]], images=pictures(prompt) or None, return_tensors="pt"))


def _words(inputs: dict[str, Any]) -> str:
    """The name of the language model's tokens among a model's inputs."""
    return "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"


def _append(inputs: dict[str, Any], token: int) -> None:
    """Put a token of text behind a prompt that a processor has made."""
    import torch

    for name, value in ((_words(inputs), token), ("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            inputs[name] = torch.cat((inputs[name], torch.full((1, 1), value, dtype=inputs[name].dtype)), dim=1)


def _last_logits(model: Any, inputs: dict[str, Any]) -> Any:
    import torch

    if "input_features" in inputs:  # a model does not do with sounds what it does with pictures
        inputs = {**inputs, "input_features": inputs["input_features"].to(model.dtype)}
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits[0, -1].float()


def greedy(folder: str, dtype: str, prompts: list[Prompt], count: int) -> list[dict[str, Any]]:
    """`count` greedy tokens for each prompt, by full recomputation: no cache, no padding, no batching.

    Each answer has `token_ids`, `prompt_token_ids` (with one token per place of an image) and, per position, `best`:
    the two best as [token, logit].
    """
    model = _load(folder, dtype)
    answers = []
    for prompt in prompts:
        inputs = _read(folder, prompt)
        words = _words(inputs)
        length = inputs[words].shape[1]
        best = []
        for _ in range(count):
            values, indices = _last_logits(model, inputs).topk(2)
            best.append([[int(index), float(value)] for index, value in zip(indices, values, strict=True)])
            _append(inputs, best[-1][0][0])
        ids = inputs[words][0].tolist()
        answers.append({"token_ids": ids[length:], "prompt_token_ids": ids[:length], "best": best})
    return answers


def next_logits(folder: str, dtype: str, prompt: Prompt, tokens: list[int]) -> list[float]:
    """The logits behind a prompt and the tokens of an answer."""
    inputs = _read(folder, prompt)
    for token in tokens:
        _append(inputs, token)
    logits: list[float] = _last_logits(_load(folder, dtype), inputs).tolist()
    return logits
