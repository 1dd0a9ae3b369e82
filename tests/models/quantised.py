"""W8A8 checkpoints in the compressed-tensors format, and their layers in exact integers for the reference.

The weights of a family from `families`, each linear layer but the last as int8: a step per row (`channel`) or one for
the whole matrix (`tensor`); activations with a step per token (`dynamic`) or one that was found beforehand (`static`),
with a zero point in it (`shifted`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMES = {
    "channel-dynamic": ("channel", "dynamic"),
    "tensor-dynamic": ("tensor", "dynamic"),
    "channel-static": ("channel", "static"),
    "tensor-static": ("tensor", "static"),
    "channel-shifted": ("channel", "shifted"),
}


def is_one(folder: str) -> bool:
    """Whether a folder holds such a checkpoint."""
    return "quantization_config" in json.loads(Path(folder, "config.json").read_text())


def description(weights: str, activations: str) -> dict[str, Any]:
    """The `quantization_config` of a model."""
    dynamic = activations == "dynamic"
    common = {"num_bits": 8, "type": "int"}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**common, "symmetric": True, "strategy": weights, "dynamic": False},
                "input_activations": {
                    **common,
                    "symmetric": activations != "shifted",
                    "strategy": "token" if dynamic else "tensor",
                    "dynamic": dynamic,
                },
            }
        },
    }


def _linears(model: Any) -> Iterator[tuple[str, Any]]:
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            yield name, module


def write(source: str, folder: str, scheme: str, prompts: list[list[int]]) -> None:
    """Quantize the model in `source` into `folder`; `prompts` show what its activations look like."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    weights, activations = SCHEMES[scheme]
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    seen: dict[str, list[Any]] = {}
    for name, module in _linears(model):
        seen[name] = []
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].aminmax()))
    with torch.no_grad():
        for prompt in prompts:
            model(torch.tensor([prompt]), use_cache=False)
    tensors = {name: value.detach().bfloat16().contiguous() for name, value in model.state_dict().items()}
    for name, module in _linears(model):
        weight = module.weight.detach()
        scale = weight.abs().amax(1, keepdim=True) / 127 if weights == "channel" else weight.abs().amax()[None] / 127
        tensors[f"{name}.weight"] = torch.round(weight / scale).to(torch.int8)
        tensors[f"{name}.weight_scale"] = scale
        lowest, highest = min(low for low, _ in seen[name]), max(high for _, high in seen[name])
        if activations == "static":
            tensors[f"{name}.input_scale"] = torch.maximum(-lowest, highest)[None] / 127
        elif activations == "shifted":
            step = (highest - lowest) / 255
            tensors[f"{name}.input_scale"] = step[None]
            tensors[f"{name}.input_zero_point"] = torch.round(-128 - lowest / step)[None].to(torch.int8)
    target = Path(folder)
    target.mkdir()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(Path(source, "config.json").read_text())
    config["quantization_config"] = description(weights, activations)
    (target / "config.json").write_text(json.dumps(config))


def load(folder: str, dtype: str, **options: Any) -> Any:
    """The model in transformers, its quantized layers in exact integers."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, **options).to(getattr(torch, dtype))
    tensors = load_file(Path(folder, "model.safetensors"))
    for name, module in list(_linears(model)):
        parts = {part: tensors.pop(f"{name}.{part}", None) for part in
                 ("weight", "weight_scale", "input_scale", "input_zero_point", "bias")}  # fmt: skip
        model.set_submodule(name, _exact(module, **parts))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    return model


def _exact(linear: Any, weight: Any, weight_scale: Any, input_scale: Any, input_zero_point: Any, bias: Any) -> Any:
    import torch

    class Exact(torch.nn.Module):
        """Products of integers below 2**53 in float64, which holds them exactly; the rest in float64 as well."""

        def forward(self, x: Any) -> Any:
            wide = x.double()
            step = wide.abs().amax(-1, keepdim=True) / 127 if input_scale is None else input_scale.double()
            point = 0 if input_zero_point is None else input_zero_point.double()
            quantised = (torch.round(wide / step) + point).clamp(-128, 127) - point
            result = (quantised @ weight.double().t()) * step * weight_scale.double().flatten()
            return (result if bias is None else result + bias.double()).to(x.dtype)

    return Exact()
