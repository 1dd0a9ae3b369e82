"""Temperature and min-p in one operator; either can be left out."""

from __future__ import annotations

import torch

from ascend_patch.kernels import loading, operators
from ascend_patch.kernels.declaration import Kernel

KERNEL = Kernel(
    name="min_p_temperature",
    why="Min-p compares logits with a threshold of the row, without the softmax; the division is on the way.",
    replaces=9,
    entries=("min_p_temperature_float", "min_p_temperature_half", "min_p_temperature_bfloat16"),
    parameters=("ptr", "ptr", "ptr", "i32", "i32", "i64"),
)

ENTRIES = dict(zip((torch.float32, torch.float16, torch.bfloat16), KERNEL.entries, strict=True))
GREEDY_BELOW = 1e-5
"""Temperatures below it count as 1, as in vLLM's ``Sampler.apply_temperature`` (kGreedy in the source)."""


def check(logits: torch.Tensor, temperature: torch.Tensor | None, min_p: torch.Tensor | None) -> None:
    """Raises what the operator refuses.

    Raises:
        TypeError: a dtype.
        ValueError: a shape, a layout.
    """
    if logits.dtype not in ENTRIES:
        raise TypeError(f"min_p_temperature: logits are {logits.dtype}, they must be float32, float16 or bfloat16")
    if logits.dim() != 2 or logits.stride(1) != 1:
        raise ValueError("min_p_temperature: logits must be a matrix with contiguous rows")
    rows = logits.shape[0]
    for name, tensor in (("temperature", temperature), ("min_p", min_p)):
        if tensor is None:
            continue
        if tensor.dtype != torch.float32:
            raise TypeError(f"min_p_temperature: {name} is {tensor.dtype}, it must be torch.float32")
        if tensor.shape not in ((rows,), (rows, 1)) or not tensor.is_contiguous():
            raise ValueError(
                f"min_p_temperature: {name} must be a contiguous vector of {rows}, not {tuple(tensor.shape)}"
            )


def reference(logits: torch.Tensor, temperature: torch.Tensor | None, min_p: torch.Tensor | None) -> None:
    """The same in PyTorch."""
    values = logits.float()
    if temperature is not None:
        divisor = torch.where(temperature < GREEDY_BELOW, 1.0, temperature)
        values = values / divisor.view(-1, 1)
    if min_p is not None and values.numel():
        limit = min_p.view(-1, 1)
        threshold = torch.where(limit > 0, values.amax(1, keepdim=True) + limit.log(), -torch.inf)
        values = values.masked_fill(values < threshold, -torch.inf)
    logits.copy_(values)


def launch(logits: torch.Tensor, temperature: torch.Tensor | None, min_p: torch.Tensor | None) -> None:
    """One launch; the cores take rows in turn."""
    rows, vocab = logits.shape
    if rows == 0 or vocab == 0:
        return
    loading.launch(
        KERNEL,
        ENTRIES[logits.dtype],
        min(loading.vector_cores(), rows),
        logits,
        temperature,
        min_p,
        rows,
        vocab,
        logits.stride(0),
    )


def fake(logits: torch.Tensor, temperature: torch.Tensor | None, min_p: torch.Tensor | None) -> None:
    """Nothing to allocate: the result is an argument."""


min_p_temperature = operators.define(
    KERNEL,
    "min_p_temperature(Tensor(a!) logits, Tensor? temperature, Tensor? min_p) -> ()",
    check=check,
    launch=launch,
    reference=reference,
    fake=fake,
)
"""Divides `logits` by the temperature of their row, then applies min-p; in place.

In vLLM the two stand side by side in ``vllm.v1.sample.sampler.Sampler.sample``: ``apply_temperature(logits, temp,
all_random)`` has `temperature` (`min_p` None), ``MinPLogitsProcessor.apply(logits)`` has ``self.min_p`` (`temperature`
None); a patch of ``sample`` can have both at once.

Args:
    logits: ``[rows, vocabulary]`` float32, float16 or bfloat16, changed in place; rows may be apart. The arithmetic is
        float32.
    temperature: ``[rows]`` float32, or None for 1. Below 1e-5 the request is greedy and its logits are not scaled.
    min_p: ``[rows]`` or ``[rows, 1]`` float32 between 0 and 1, or None for 0. Tokens whose probability after the
        temperature is below ``min_p`` times the largest one become minus infinity.

The threshold is ``max + ln(min_p)`` of the logits, where vLLM compares rounded probabilities: a token that is within a
rounding error of the threshold may fall on the other side.

Cost per element in float32: 8 bytes for temperature alone, the minimum; 12 with min-p, 1.5 times the minimum, since a
row does not fit into a core's unified buffer and its maximum must be known first. 1 vector instruction per 64 elements
for temperature, 4 with min-p; 2 and 3 casts more in the 16-bit types. Rows that stay as they are move nothing. A row is
worked on by one core, so fewer rows than cores leave cores idle. One launch for 4 (temperature) and 5 (min-p).
"""
