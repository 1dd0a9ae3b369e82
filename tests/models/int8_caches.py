"""Checkpoints whose keys and values are kept as int8, and for the reference attention that keeps them so.

`c8`: msModelSlim's, a step per channel, matrices as they are; `c8-shifted` with zero points; `c8-coarse` with steps
sixteen times as wide, so that nobody comes near who leaves keys and values as they are; `c8-one` with one step for all
channels, and no zero points in the file; `c8-w8a8` beside int8 layers (the scheme `modelslim` of `quantised`).
`tensor` and `head`: compressed-tensors' ``kv_cache_scheme`` beside int8 layers (the scheme `channel-dynamic`).

Steps are numbers of bfloat16, as the operators take them in the model's type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

C8 = ("c8", "c8-shifted", "c8-coarse", "c8-one", "c8-w8a8")
COMPRESSED = ("tensor", "head")
KINDS = (*C8, *COMPRESSED)
_LAYERS = {"c8-w8a8": "modelslim", "tensor": "channel-dynamic", "head": "channel-dynamic"}
_DESCRIPTION = "quant_model_description.json"
_STEP = re.compile(r"^(.*\.self_attn)\.(?:([kv])_proj\.kv_cache_(scale|offset)|([kv])_(scale))$")


def write(source: str, folder: str, kind: str, prompts: list[list[int]]) -> None:
    """Quantize the cache, and for some kinds the layers, of the model in `source` into `folder`."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from tests.models import quantised

    target, layers = Path(folder), _LAYERS.get(kind)
    if layers is not None:
        quantised.write(source, folder, layers, prompts)
        model = quantised.load(folder, "float32", attn_implementation="eager").eval()
        tensors = load_file(target / "model.safetensors")
    else:
        target.mkdir()
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
        tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
        (target / "config.json").write_text(Path(source, "config.json").read_text())
    added = {}
    for name, (keys, values) in _seen(model, prompts).items():
        for which, rows in (("k", keys), ("v", values)):
            added.update(_steps(name, which, rows, kind))
    save_file(tensors | added, target / "model.safetensors", metadata={"format": "pt"})
    if kind in C8:
        path = target / _DESCRIPTION
        known = json.loads(path.read_text()) if path.exists() else dict.fromkeys(tensors, "FLOAT")
        types = {"kv_cache_type": "C8", "kv_quant_type": "C8", **dict.fromkeys(added, "C8")}
        path.write_text(json.dumps({"model_quant_type": "C8", "version": "1.0.0", **known, **types}))
    else:
        config = json.loads((target / "config.json").read_text())
        strategy = "tensor" if kind == "tensor" else "attn_head"
        scheme = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False, "strategy": strategy}
        config["quantization_config"]["kv_cache_scheme"] = scheme
        (target / "config.json").write_text(json.dumps(config))


def _steps(name: str, which: str, rows: Any, kind: str) -> dict[str, Any]:
    """The tensors of a checkpoint that say how keys or values ``[tokens, heads, size]`` are kept."""
    import torch

    if kind == "tensor":
        return {f"{name}.{which}_scale": _short(rows.abs().amax() / 127).reshape(1)}
    if kind == "head":
        return {f"{name}.{which}_scale": _short(rows.abs().amax((0, 2)) / 127).reshape(-1, 1, 1)}
    if kind == "c8-one":
        return {f"{name}.{which}_proj.kv_cache_scale": _short(rows.abs().amax() / 127).reshape(1)}
    low, high = rows.flatten(1).amin(0), rows.flatten(1).amax(0)
    if kind == "c8-shifted":
        scale = _short((high - low) / 255)
        offset = torch.round(-128 - low / scale).clamp(-128, 127)
    else:
        scale = _short(torch.maximum(-low, high) / 127) * (16 if kind == "c8-coarse" else 1)
        offset = torch.zeros_like(scale)
    return {f"{name}.{which}_proj.kv_cache_scale": scale, f"{name}.{which}_proj.kv_cache_offset": offset}


def _short(scale: Any) -> Any:
    return scale.bfloat16().float()


def _seen(model: Any, prompts: list[list[int]]) -> dict[str, tuple[Any, Any]]:
    """Keys and values of every attention layer over all prompts, as the cache would get them."""
    import torch

    found: dict[str, list[Any]] = {}
    names = {module: name for name, module in model.named_modules()}

    def noted(module: Any, key: Any, value: Any) -> tuple[Any, Any]:
        found.setdefault(names[module], []).append(tuple(part[0].transpose(0, 1) for part in (key, value)))
        return key, value

    with _changed(model, noted), torch.no_grad():
        for prompt in prompts:
            model(torch.tensor([prompt]), use_cache=False)
    return {name: tuple(map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}  # type: ignore[misc]


@contextmanager
def _changed(model: Any, change: Callable[..., tuple[Any, Any]]) -> Iterator[None]:
    """Attention of `model` to what `change` makes of keys and values, ``[1, heads, tokens, size]``."""
    import sys

    home: Any = sys.modules[type(model).__module__]
    usual = home.eager_attention_forward

    def attend(module: Any, query: Any, key: Any, value: Any, *more: Any, **options: Any) -> Any:
        return usual(module, query, *change(module, key, value), *more, **options)

    home.eager_attention_forward = attend
    try:
        yield
    finally:
        home.eager_attention_forward = usual


def take(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Remove a cache's steps from a checkpoint; returns them by attention layer, as ``k_scale``, ``v_offset``, ..."""
    steps: dict[str, dict[str, Any]] = {}
    for name in list(tensors):
        if match := _STEP.match(name):
            layer, which, part, other, same = match.groups()
            steps.setdefault(layer, {})[f"{which or other}_{part or same}"] = tensors.pop(name).double()
    return steps


def keep(model: Any, steps: dict[str, dict[str, Any]]) -> Any:
    """`model`, whose attention sees keys and values as the steps leave them."""
    import torch

    if not steps:
        return model
    names = {module: name for name, module in model.named_modules()}

    def kept(rows: Any, scale: Any, offset: Any) -> Any:
        _, heads, _, size = rows.shape

        def arranged(numbers: Any) -> Any:
            return numbers.flatten().view(-1, 1, 1) if numbers.numel() in (1, heads) else numbers.view(heads, 1, size)

        step, shift = arranged(scale), 0.0 if offset is None else arranged(offset)
        integers = (torch.round(rows.double() / step) + shift).clamp(-128, 127)
        return ((integers - shift) * step).to(rows.dtype)

    def change(module: Any, key: Any, value: Any) -> tuple[Any, Any]:
        own = steps[names[module]]
        return tuple(  # type: ignore[return-value]
            kept(rows, own[f"{which}_scale"], own.get(f"{which}_offset")) for which, rows in (("k", key), ("v", value))
        )

    usual = model.forward

    def forward(*inputs: Any, **options: Any) -> Any:
        with _changed(model, change):
            return usual(*inputs, **options)

    model.forward = forward
    return model
