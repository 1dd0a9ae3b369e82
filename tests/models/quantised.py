"""W8A8 checkpoints in two formats, and their layers in exact integers for the reference.

The weights of a family from `families`, each linear layer but the last as int8.

compressed-tensors: a step per row (`channel`) or one for the whole matrix (`tensor`); activations with a step per token
(`dynamic`) or one that was found beforehand (`static`), with a zero point in it (`shifted`).

Experts have a step per row and per token in both formats, and their gate stays as it is.

`modelslim`: attention with steps and zero points that were found beforehand, the first matrices of the MLP with a step
per token, its last one as it is. `modelslim-half` keeps scales as float16 checkpoints do, as the bits of float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.models import int8_caches

SCHEMES = {
    "channel-dynamic": ("channel", "dynamic"),
    "tensor-dynamic": ("tensor", "dynamic"),
    "channel-static": ("channel", "static"),
    "tensor-static": ("tensor", "static"),
    "channel-shifted": ("channel", "shifted"),
}
# Weights alone: bits, how many share a step, and whether they have a zero point.
WEIGHT_ONLY = {
    "w4-group": (4, 32, False),
    "w4-channel": (4, None, False),
    "w4-group-shifted": (4, 64, True),
    "w8-group": (8, 32, False),
    "w8-channel-shifted": (8, None, True),
}
MODELSLIM = ("modelslim", "modelslim-half")
DESCRIPTION = "quant_model_description.json"
EXPERT = ("gate_proj", "up_proj", "down_proj")
PACKED = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "bias")
PARTS = ("weight", "weight_scale", "weight_offset", "input_scale", "input_zero_point", "input_offset", "quant_bias",
         "deq_scale", "bias")  # fmt: skip


def is_one(folder: str) -> bool:
    """Whether a folder holds such a checkpoint."""
    config = json.loads(Path(folder, "config.json").read_text())
    return "quantization_config" in config or Path(folder, DESCRIPTION).exists()


def description(scheme: str) -> dict[str, Any]:
    """The `quantization_config` of a model."""
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if scheme in WEIGHT_ONLY else "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head", "re:.*mlp.gate$"],
        "config_groups": {"group_0": {"targets": ["Linear"], **_arguments(scheme)}},
    }


def _arguments(scheme: str) -> dict[str, Any]:
    if scheme in WEIGHT_ONLY:
        bits, group, shifted = WEIGHT_ONLY[scheme]
        strategy = {"strategy": "channel"} if group is None else {"strategy": "group", "group_size": group}
        return {"weights": {"num_bits": bits, "type": "int", "symmetric": not shifted, "dynamic": False, **strategy}}
    weights, activations = SCHEMES[scheme]
    dynamic = activations == "dynamic"
    common = {"num_bits": 8, "type": "int"}
    return {
        "weights": {**common, "symmetric": True, "strategy": weights, "dynamic": False},
        "input_activations": {
            **common,
            "symmetric": activations != "shifted",
            "strategy": "token" if dynamic else "tensor",
            "dynamic": dynamic,
        },
    }


def linears(model: Any) -> Iterator[tuple[str, Any]]:
    """The linear layers that these checkpoints have quantized."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head" and not name.endswith(".gate"):
            yield name, module


def stacked_experts(model: Any) -> Iterator[tuple[str, Any]]:
    """Experts whose matrices lie in one tensor, as transformers has them since 5."""
    for name, module in model.named_modules():
        if name.endswith(".experts") and hasattr(module, "gate_up_proj"):
            yield name, module


def matrices_of(name: str, experts: Any) -> Iterator[tuple[str, Any]]:
    """Each matrix under its name in checkpoints, as something with a `weight`."""
    for number, (both, down) in enumerate(zip(experts.gate_up_proj, experts.down_proj, strict=True)):
        gate, up = both.chunk(2)
        for part, weight in zip(EXPERT, (gate, up, down), strict=True):
            yield f"{name}.{number}.{part}", SimpleNamespace(weight=weight)


def write(source: str, folder: str, scheme: str, prompts: list[list[int]]) -> None:
    """Quantize the model in `source` into `folder`; `prompts` show what its activations look like."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    seen: dict[str, list[Any]] = {}

    def look(_: Any, inputs: Any, name: str) -> None:
        if inputs[0].numel():  # transformers 4 calls experts that got no token
            seen[name].append(inputs[0].aminmax())

    for name, module in linears(model):
        seen[name] = []
        module.register_forward_pre_hook(partial(look, name=name))
    with torch.no_grad():
        for prompt in prompts:
            model(torch.tensor([prompt]), use_cache=False)

    def ranges(pairs: list[Any]) -> tuple[Any, Any]:
        return min(low for low, _ in pairs), max(high for _, high in pairs)

    short = torch.float16 if scheme == "modelslim-half" else torch.bfloat16
    tensors = {name: value.detach().to(short).contiguous() for name, value in model.state_dict().items()}
    matrices = list(linears(model))
    for name, experts in stacked_experts(model):
        del tensors[f"{name}.gate_up_proj"], tensors[f"{name}.down_proj"]
        matrices += matrices_of(name, experts)
    types = dict.fromkeys(tensors, "FLOAT")
    for name, module in matrices:
        if scheme in WEIGHT_ONLY:
            added, kind = _weight_only(module, *WEIGHT_ONLY[scheme]), "W4A16"
            tensors.pop(f"{name}.weight", None)
        elif ".experts." in name:
            added, kind = _compressed(module, None, None, "channel", "dynamic"), "W8A8_DYNAMIC"
        elif scheme not in MODELSLIM:
            added, kind = _compressed(module, *ranges(seen[name]), *SCHEMES[scheme]), "W8A8"
        elif name.endswith("down_proj"):
            continue
        elif "self_attn" in name:
            added, kind = _modelslim_static(module, *ranges(seen[name]), scheme == "modelslim-half"), "W8A8"
        else:
            added, kind = _compressed(module, None, None, "channel", "dynamic"), "W8A8_DYNAMIC"
        if scheme in MODELSLIM and kind == "W8A8_DYNAMIC":
            added["weight_offset"] = torch.zeros_like(added["weight_scale"])
        for part, value in added.items():
            tensors[f"{name}.{part}"], types[f"{name}.{part}"] = value, kind
    target = Path(folder)
    target.mkdir()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(Path(source, "config.json").read_text())
    if scheme in MODELSLIM:
        (target / DESCRIPTION).write_text(json.dumps({"model_quant_type": "W8A8", "version": "1.0.0", **types}))
    else:
        config["quantization_config"] = description(scheme)
    (target / "config.json").write_text(json.dumps(config))


def _compressed(module: Any, lowest: Any, highest: Any, weights: str, activations: str) -> dict[str, Any]:
    import torch

    weight = module.weight.detach()
    scale = weight.abs().amax(1, keepdim=True) / 127 if weights == "channel" else weight.abs().amax()[None] / 127
    parts = {"weight": torch.round(weight / scale).to(torch.int8), "weight_scale": scale}
    if activations == "static":
        parts["input_scale"] = torch.maximum(-lowest, highest)[None] / 127
    elif activations == "shifted":
        step = (highest - lowest) / 255
        parts["input_scale"] = step[None]
        parts["input_zero_point"] = torch.round(-128 - lowest / step)[None].to(torch.int8)
    return parts


def _weight_only(module: Any, bits: int, group: int | None, shifted: bool) -> dict[str, Any]:
    """Unsigned numbers, along the rows 4 or 8 of them in an int32, zero points along the columns."""
    import torch

    weight = module.weight.detach()
    rows, depth = weight.shape
    blocks = weight.view(rows, -1, group or depth)
    top, middle = 2**bits - 1, 2 ** (bits - 1)
    if shifted:
        low, high = blocks.amin(2, keepdim=True).clamp_max(0), blocks.amax(2, keepdim=True).clamp_min(0)
        scale = ((high - low) / top).bfloat16().float()
        point = torch.round(-low / scale).clamp(0, top)
    else:
        scale = (blocks.abs().amax(2, keepdim=True) / (middle - 1)).bfloat16().float()
        point = torch.full_like(scale, middle)
    numbers = (torch.round(blocks / scale) + point).clamp(0, top).view(rows, depth).to(torch.int64)
    parts = {
        "weight_packed": _packed(numbers, bits),
        "weight_scale": scale.squeeze(2).bfloat16(),
        "weight_shape": torch.tensor([rows, depth]),
    }
    if shifted:
        parts["weight_zero_point"] = _packed(point.squeeze(2).to(torch.int64).t(), bits).t().contiguous()
    return parts


def _packed(numbers: Any, bits: int) -> Any:
    import torch

    each = numbers.unflatten(1, (-1, 32 // bits))
    return sum(each[..., place] << (bits * place) for place in range(32 // bits)).to(torch.int32)


def _loose(packed: Any, bits: int) -> Any:
    import torch

    wide = packed.to(torch.int64)
    return torch.stack([(wide >> (bits * place)) % 2**bits for place in range(32 // bits)], dim=2).flatten(1).double()


def _modelslim_static(module: Any, lowest: Any, highest: Any, half: bool) -> dict[str, Any]:
    """The layer's bias and the zero point are in `quant_bias`, in units of `deq_scale`."""
    import torch

    short = torch.float16 if half else torch.bfloat16
    parts = _compressed(module, lowest, highest, "channel", "shifted")
    step, point = parts["input_scale"].to(short), parts.pop("input_zero_point").to(short)
    deq_scale = step.float() * parts.pop("weight_scale").flatten()
    bias = -point.double() * parts["weight"].double().sum(1)
    if module.bias is not None:
        bias += module.bias.detach().double() / deq_scale.double()
    parts |= {"input_scale": step, "input_offset": point, "quant_bias": torch.round(bias).to(torch.int32)}
    parts["deq_scale"] = deq_scale.view(torch.int32).long() if half else deq_scale
    return parts


def load(folder: str, dtype: str, **options: Any) -> Any:
    """The model in transformers, its quantized layers in exact integers."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, **options).to(getattr(torch, dtype))
    tensors = load_file(Path(folder, "model.safetensors"))
    cache = int8_caches.take(tensors)
    for name, _ in list(linears(model)):
        if f"{name}.weight_packed" in tensors or tensors[f"{name}.weight"].dtype == torch.int8:
            model.set_submodule(name, _product(tensors, name))
    for name, experts in list(stacked_experts(model)):
        names = [f"{name}.{number}.{part}" for number in range(len(experts.down_proj)) for part in EXPERT]
        model.set_submodule(name, experts_of([_product(tensors, one) for one in names]))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    return int8_caches.keep(model, cache)


def _restored(parts: dict[str, Any]) -> Any:
    """The weights of `_weight_only` in float64."""
    rows, depth = parts["weight_shape"].tolist()
    bits = 32 * parts["weight_packed"].shape[1] // depth
    scale, points = parts["weight_scale"].double(), parts["weight_zero_point"]
    point = 2 ** (bits - 1) if points is None else _loose(points.t(), bits).t().unsqueeze(2)
    blocks = _loose(parts["weight_packed"], bits).view(rows, scale.shape[1], -1)
    return ((blocks - point) * scale.unsqueeze(2)).view(rows, depth)


def exact_product(weight: Any, bias: Any) -> Any:
    """A linear layer in float64, with `weight` ``[n, k]``."""
    import torch

    class Exact(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            result = x.double() @ weight.t()
            return (result if bias is None else result + bias.double()).to(x.dtype)

    return Exact()


def _product(tensors: dict[str, Any], name: str) -> Any:
    """A quantized layer, whose tensors are taken from `tensors`."""
    if f"{name}.weight_packed" in tensors:
        parts = {part: tensors.pop(f"{name}.{part}", None) for part in PACKED}
        return exact_product(_restored(parts), parts["bias"])
    return _exact({part: tensors.pop(f"{name}.{part}", None) for part in PARTS})


def experts_of(products: list[Any]) -> Any:
    """Stands in for transformers' experts, one after another; three products for each, in the order of `EXPERT`."""
    import torch

    class Experts(torch.nn.Module):
        def forward(self, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
            result = torch.zeros_like(hidden_states)
            for number in range(len(products) // len(EXPERT)):
                gate, up, down = products[len(EXPERT) * number : len(EXPERT) * (number + 1)]
                token, place = torch.where(top_k_index == number)
                x = hidden_states[token]
                answer = down(torch.nn.functional.silu(gate(x)) * up(x)) * top_k_weights[token, place].unsqueeze(1)
                result.index_add_(0, token, answer.to(result.dtype))
            return result

    return Experts()


def _exact(parts: dict[str, Any]) -> Any:
    import torch

    wide = {name: None if value is None else value.double() for name, value in parts.items()}
    weight, bias, point = wide["weight"].t(), wide["bias"], wide["input_zero_point"]
    bits = parts["deq_scale"]
    if bits is not None and bits.dtype == torch.int64:
        wide["deq_scale"] = bits.to(torch.int32).view(torch.float32).double()

    class Exact(torch.nn.Module):
        """Products of integers below 2**53 in float64, which holds them exactly; the rest in float64 as well."""

        def forward(self, x: Any) -> Any:
            return self.product(x.double()).to(x.dtype)

        def product(self, x: Any) -> Any:
            step = x.abs().amax(-1, keepdim=True) / 127 if wide["input_scale"] is None else wide["input_scale"]
            if wide["deq_scale"] is not None:
                integers = (torch.round(x / step) + wide["input_offset"]).clamp(-128, 127)
                return (integers @ weight + wide["quant_bias"]) * wide["deq_scale"]
            offset = 0 if point is None else point
            integers = (torch.round(x / step) + offset).clamp(-128, 127) - offset
            result = (integers @ weight) * step * wide["weight_scale"].flatten()
            return result if bias is None else result + bias

    return Exact()
