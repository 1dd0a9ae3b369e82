"""Rotary position embedding inside vision towers as one operator."""

from __future__ import annotations

from typing import Any

from ascend_patch import npu
from ascend_patch.engine.vocabulary import Add, Expiry, Patch, Variant

_APPLY = "vllm.model_executor.layers.rotary_embedding.common:ApplyRotaryEmb"

PATCH = Patch(
    id="ops.vision_rotary",
    why="vLLM's kernels for it are flash attention's; the native fallback splits, multiplies and joins in seven"
    " operators per layer.",
    traced=True,
    requires=("platform.npu",),
    variants=(Variant(versions=">=0.13.0,<0.34", rewrites=(Add(f"{_APPLY}.forward_oot", by=":vision_rotary"),)),),
    upstream="vllm/model_executor/layers/rotary_embedding/common.py",
    unnecessary_when="vllm.ir has a rotary embedding operator with a provider for torch-npu.",
    expires=(Expiry(f"{_APPLY}.forward_oot"),),
)


def vision_rotary(self: Any, x: Any, cos: Any, sin: Any) -> Any:
    """Rotate all of every head.

    Args:
        x: ``[batch, tokens, heads, head_size]``, or without `batch`.
        cos: ``[tokens, head_size // 2]``, as `sin`.
    """
    whole = cos.dim() == 2 and 2 * cos.shape[-1] == x.shape[-1]
    rows = x.unsqueeze(0) if x.dim() == 3 else x
    if not whole or not npu.rotate_rows_supports(rows.shape, self.is_neox_style):
        return self.forward_native(x, cos, sin)
    turning = rows.float() if self.enable_fp32_compute else rows
    wide_cos, wide_sin = (_wide(table, turning.dtype, self.is_neox_style) for table in (cos, sin))
    return npu.rotate_rows(turning, wide_cos, wide_sin, self.is_neox_style).to(x.dtype).view(x.shape)


def _wide(table: Any, dtype: Any, is_neox: bool) -> Any:
    """A table as the operator wants it, kept with the narrow one, which all layers of a tower are given."""
    kept = getattr(table, "npu_wide", None)
    if kept is None or kept[0] != (dtype, is_neox):
        kept = ((dtype, is_neox), npu.widen_rotary_table(table.to(dtype), is_neox))
        table.npu_wide = kept
    return kept[1]
