"""Checkpoints in GPTQ's and AWQ's own formats, and their layers with the weights that were meant for the reference.

The weights of a family from `families`, each linear layer but the last rounded to numbers of 4 or 8 bits. What these
are worth is kept beside the checkpoint, from before they are packed: the reference does not unpack anything.

GPTQ packs along a column's rows, and stores zero points as one less (`gptq_v2` does not). AWQ packs along a row's
columns, eight of them in the order 0, 2, 4, 6, 1, 3, 5, 7.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.models.quantised import EXPERT, exact_product, experts_of, linears, matrices_of, stacked_experts

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
EXACT = "exact"


class Scheme(NamedTuple):
    """`group` -1 is a whole column; `shifted` is with zero points; `ordered` spreads each group's rows over all."""

    method: str
    bits: int
    group: int
    shifted: bool = False
    form: str = "gptq"
    ordered: bool = False
    order: tuple[int, ...] = AWQ_ORDER


SCHEMES = {
    "gptq-w4-g32": Scheme("gptq", 4, 32),
    "gptq-w4-g32-shifted": Scheme("gptq", 4, 32, shifted=True),
    "gptq-w4-g128-shifted": Scheme("gptq", 4, 128, shifted=True),
    "gptq-w4-column": Scheme("gptq", 4, -1),
    "gptq-w4-g64-ordered": Scheme("gptq", 4, 64, ordered=True),
    "gptq-w4-g32-ordered-shifted": Scheme("gptq", 4, 32, shifted=True, ordered=True),
    "gptq-w8-g64": Scheme("gptq", 8, 64),
    "gptq-w8-column-shifted": Scheme("gptq", 8, -1, shifted=True),
    "gptq-v2-w4-g64-shifted": Scheme("gptq", 4, 64, shifted=True, form="gptq_v2"),
    "awq-g32": Scheme("awq", 4, 32, shifted=True),
    "awq-g64": Scheme("awq", 4, 64, shifted=True),
    "awq-g128": Scheme("awq", 4, 128, shifted=True),
    "awq-column": Scheme("awq", 4, -1, shifted=True),
    # Not AWQ: columns as they come.
    "awq-wrong-order": Scheme("awq", 4, 64, shifted=True, order=tuple(range(8))),
}


def is_one(folder: str) -> bool:
    """Whether a folder holds such a checkpoint."""
    return Path(folder, EXACT).exists()


def description(scheme: Scheme) -> dict[str, Any]:
    """The `quantization_config` of a model."""
    common = {"quant_method": scheme.method, "bits": scheme.bits, "group_size": scheme.group}
    if scheme.method == "awq":
        return {**common, "zero_point": scheme.shifted, "version": "gemm", "modules_to_not_convert": None}
    return {
        **common,
        "sym": not scheme.shifted,
        "desc_act": scheme.ordered,
        "checkpoint_format": scheme.form,
        "lm_head": False,
        "true_sequential": True,
    }


def write(source: str, folder: str, name: str) -> None:
    """Quantize the model in `source` into `folder`."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    scheme = SCHEMES[name]
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tensors = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    exact = {}
    layers = list(linears(model))
    for name, experts in stacked_experts(model):
        del tensors[f"{name}.gate_up_proj"], tensors[f"{name}.down_proj"]
        layers += matrices_of(name, experts)
    for layer, module in layers:
        tensors.pop(f"{layer}.weight", None)
        added, exact[layer] = _quantised(module.weight.detach(), scheme)
        if scheme.method == "gptq" and ".experts." not in layer:  # AutoGPTQ writes one for every layer
            tensors.setdefault(f"{layer}.bias", torch.zeros(module.out_features, dtype=torch.float16))
        tensors |= {f"{layer}.{part}": value.contiguous() for part, value in added.items()}
    target = Path(folder)
    (target / EXACT).mkdir(parents=True)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    save_file(exact, target / EXACT / "weights.safetensors")
    config = json.loads(Path(source, "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": description(scheme)}))


def _quantised(matrix: Any, scheme: Scheme) -> tuple[dict[str, Any], Any]:
    """A layer's tensors, and the ``[n, k]`` in float64 that they stand for."""
    import torch

    weight = matrix.clone()
    columns, rows = weight.shape
    size = rows if scheme.group == -1 else scheme.group
    if scheme.shifted:
        weight[0].abs_()  # nothing below zero: a zero point of 0, which is less by one than can be stored
    # Layers that become one matrix have the same order, as they have with the same inputs.
    order = (
        torch.randperm(rows, generator=torch.Generator().manual_seed(rows)) if scheme.ordered else torch.arange(rows)
    )
    group_of_row = torch.empty(rows, dtype=torch.int64)
    group_of_row[order] = torch.arange(rows) // size
    top, middle = 2**scheme.bits - 1, 2 ** (scheme.bits - 1)
    blocks = weight[:, order].view(columns, -1, size)
    if scheme.shifted:
        low, high = blocks.amin(2).clamp_max(0), blocks.amax(2).clamp_min(0)
        scale = ((high - low) / top).bfloat16().float()  # exact in float16 as well
        point = torch.round(-low / scale).clamp(0, top)
    else:
        scale = (blocks.abs().amax(2) / (middle - 1)).bfloat16().float()
        point = torch.full_like(scale, middle)
    scales, points = (value[:, group_of_row] for value in (scale, point))
    numbers = (torch.round(weight / scales) + points).clamp(0, top)
    exact = (numbers - points).double() * scales.double()
    stored, zeros = numbers.long().t(), point.long().t()
    parts = {"scales": scale.t().half()}
    if scheme.method == "awq":
        parts |= {"qweight": _along_columns(stored, 4, scheme.order), "qzeros": _along_columns(zeros, 4, scheme.order)}
        return {key: _as_int32(value) for key, value in parts.items()}, exact
    each = 32 // scheme.bits
    packed = _along_columns(zeros, scheme.bits, tuple(range(each)))
    if scheme.form == "gptq":
        packed = packed - int("1".rjust(scheme.bits, "0") * each, 2)
    parts |= {"qweight": _along_columns(stored.t(), scheme.bits, tuple(range(each))).t(), "qzeros": packed}
    return {**{key: _as_int32(value) for key, value in parts.items()}, "g_idx": group_of_row.int()}, exact


def _along_columns(numbers: Any, bits: int, order: tuple[int, ...]) -> Any:
    """Several columns in one, `order` naming that in the lowest bits first."""
    return sum(numbers[:, column :: len(order)] * 2 ** (bits * place) for place, column in enumerate(order))


def _as_int32(value: Any) -> Any:
    import torch

    return value.to(torch.int32) if value.dtype == torch.int64 else value


def load(folder: str, dtype: str, **options: Any) -> Any:
    """The model in transformers, its quantized layers with the weights that were meant."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, **options).to(getattr(torch, dtype))
    tensors = load_file(Path(folder, "model.safetensors"))
    exact = load_file(Path(folder, EXACT, "weights.safetensors"))
    for name, module in list(linears(model)):
        bias = tensors[f"{name}.bias"] if module.bias is not None else None
        model.set_submodule(name, exact_product(exact[name], bias))
    for name, experts in list(stacked_experts(model)):
        names = [f"{name}.{number}.{part}" for number in range(len(experts.down_proj)) for part in EXPERT]
        model.set_submodule(name, experts_of([exact_product(exact[one], None) for one in names]))
    rest = {key: value for key, value in tensors.items() if key.rpartition(".")[0] not in exact}
    missing, unexpected = model.load_state_dict(rest, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    return model
