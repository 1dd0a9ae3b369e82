"""Pictures, moving ones, the processors that read them, and what transformers answers to them (and to sounds)."""

from __future__ import annotations

import functools
import itertools
from importlib.metadata import version
from typing import Any

from packaging.version import Version

from tests.models import hearing, listening

# A prompt is {"text": str, "sound": seed}, or {"text": str, "sounds": [[seed, seconds], ...]}, or
# {"text": str, "images": [[width, height, seed], ...]}, where it may have
# "videos": [[width, height, frames, frames per second, seed], ...] as well.
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


def videos(prompt: Prompt) -> list[tuple[Any, dict[str, Any]]]:
    """A prompt's videos: frames ``[frames, height, width, 3]`` of 8 bits, and what a reader of files would know."""
    return [_video(*described) for described in prompt.get("videos", [])]


def _video(width: int, height: int, frames: int, fps: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """A picture that moves to the side and becomes lighter or darker."""
    import numpy as np

    still = np.asarray(picture(width, height, seed)).astype(np.int64)
    moved = [np.roll(still, 7 * number, axis=1) + 60 * (number % 3) - 60 for number in range(frames)]
    known = {"total_num_frames": frames, "fps": fps, "duration": frames / fps, "frames_indices": list(range(frames)),
             "video_backend": "opencv"}  # fmt: skip
    return np.stack(moved).clip(0, 255).astype(np.uint8), known


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
    made, images, words, moving = _PARTS[config.model_type]
    own_words = words if transformers.__version__ < "5" else "PreTrainedTokenizerFast"
    parts = {
        "image_processor": class_with_pil(images).from_pretrained(folder),
        "tokenizer": getattr(transformers, own_words).from_pretrained(folder),
    }
    if moving is None:
        patches = {"patch_size": config.vision_config.patch_size, "num_additional_image_tokens": 1}
        parts = {**parts, **patches, "vision_feature_select_strategy": config.vision_feature_select_strategy}
    else:
        side = config.vision_config.patch_size
        token = (2 * side) ** 2  # pixels
        # What is left out would be done by torchvision: frames come in colours, and in sizes of whole tokens.
        left_out = {"do_resize": False, "do_convert_rgb": False}
        size = {"shortest_edge": 4 * token, "longest_edge": 64 * token}
        # Published models have the same colours for both, and vLLM takes the pictures' for the videos.
        colours = {name: getattr(parts["image_processor"], name) for name in ("image_mean", "image_std")}
        parts["video_processor"] = getattr(transformers, moving)(patch_size=side, size=size, **colours, **left_out)
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


def without_speed() -> tuple[str, ...]:
    """The processors that the installed vLLM does not tell how fast a video is."""
    return () if Version(version("vllm")) >= Version("0.31") else ("Qwen2_5_VLProcessor",)


def _read(folder: str, prompt: Prompt) -> dict[str, Any]:
    if "sound" in prompt:
        return hearing.read(folder, prompt)
    if "sounds" in prompt:
        return listening.read(folder, prompt)
    options: dict[str, Any] = {}
    reader = processor(folder)
    if shown := videos(prompt):
        from transformers.video_utils import VideoMetadata

        options = {"videos": [frames for frames, _ in shown], "do_sample_frames": False}
        if type(reader).__name__ not in without_speed():
            options["video_metadata"] = [VideoMetadata(**known) for _, known in shown]
    images = pictures(prompt) or None
    return dict(reader(text=[prompt["text"]], images=images, return_tensors="pt", **options))


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
    hook = None
    if "video_grid_thw" in inputs:
        if model.config.model_type == "qwen2_5_vl":
            change = functools.partial(_placed, _published_positions(inputs, model.config))
        else:
            change = functools.partial(_behind_videos, inputs["input_ids"][0] == model.config.video_token_id)
        hook = model.model.language_model.register_forward_pre_hook(change, with_kwargs=True)
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0, -1].float()
    if hook is not None:
        hook.remove()
    return logits


def _placed(positions: Any, _: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """Put every token at `positions`, ``[3, tokens]``."""
    found = options["position_ids"].clone()  # three rows, in some releases behind one for text
    found[-3:, 0] = positions
    return arguments, {**options, "position_ids": found}


def _published_positions(inputs: dict[str, Any], config: Any) -> Any:
    """Time, row and column of every token, as Qwen2.5-VL was published.

    transformers 5.5 gives all frames of a video one time, and some releases after it forget the time behind the video.
    """
    import torch

    merged, pace = config.vision_config.spatial_merge_size, config.vision_config.tokens_per_second
    images = iter(inputs.get("image_grid_thw", torch.empty(0, 3)).tolist())
    videos = iter(zip(inputs["video_grid_thw"].tolist(), inputs["second_per_grid_ts"], strict=True))
    tokens = inputs["input_ids"][0].tolist()
    placed: list[list[int]] = []
    start = 0
    while len(placed) < len(tokens):
        token = tokens[len(placed)]
        if token not in (config.image_token_id, config.video_token_id):
            placed.append([start] * 3)
            start += 1
            continue
        (frames, rows, columns), seconds = (next(images), 0.0) if token == config.image_token_id else next(videos)
        cells = itertools.product(range(frames), range(rows // merged), range(columns // merged))
        shown = [[start + int(time * seconds * pace), start + row, start + column] for time, row, column in cells]
        placed += shown
        start = max(map(max, shown)) + 1
    return torch.tensor(placed).T


def _behind_videos(of_video: Any, _: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """Let text go on behind a video's last position, in time as well.

    transformers 5 forgets the time there; what it generates goes on behind it. For other positions nothing changes.

    Args:
        of_video: ``[tokens]``, whether each is one of a video's.
    """
    positions = options["position_ids"].clone()  # three rows, in some releases behind one for text
    ends = [place for place in range(len(of_video) - 1) if of_video[place] and not of_video[place + 1]]
    for end in ends:
        behind = positions[-3:, 0, : end + 1].max() + 1
        positions[-3:, 0, end + 1 :] += behind - positions[-3:, 0, end + 1].min()
    return arguments, {**options, "position_ids": positions}


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
