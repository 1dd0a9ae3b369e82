"""Experts whose weights alone are quantized: `moe._experts` with CANN's grouped product of four or eight bits.

That product knows zero points of whole columns only. Those of groups are a product of their own, of the sums of each
row's groups: ``x @ ((q + offset) * scale)`` is ``x @ (q * scale)`` and, per group, ``sum(x) * offset * scale``.
"""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase

from ascend_patch import npu
from ascend_patch.patches.moe._experts import activated, over_experts, place
from ascend_patch.patches.quantization._experts_layouts import COMPRESSED, Layout
from ascend_patch.patches.quantization._packed_configs import Scheme
from ascend_patch.patches.quantization._parameters import add_parameter, derive, make_ready, spend

_PARTS = {"w13": 2, "w2": 1}
"""Names of the two matrices of an expert, and how many of the checkpoint's lie in each."""


def _apply(
    self: Any,
    layer: Any,
    x: Any,
    topk_weights: Any,
    topk_ids: Any,
    shared_experts: Any = None,
    shared_experts_input: Any = None,
) -> Any:
    """As `moe._experts.forward_oot`, with `x` float16 or bfloat16; from vLLM 0.15 on."""
    return over_experts(self.computed, layer, x, topk_weights, topk_ids)


def _apply_with_router(self: Any, layer: Any, router: Any, x: Any, router_logits: Any) -> Any:
    """`_apply` of 0.14, which lets the router choose."""
    weights, experts = router.select_experts(hidden_states=x, router_logits=router_logits)
    return over_experts(self.computed, layer, x, weights, experts)


def _choose_and_apply(self: Any, layer: Any, x: Any, router_logits: Any) -> Any:
    """`_apply` of 0.13, where the layer chooses."""
    weights, experts, _ = layer.select_experts(hidden_states=x, router_logits=router_logits)
    return over_experts(self.computed, layer, x, weights, experts)


_ASKED = inspect.signature(FusedMoEMethodBase.apply).parameters


class AscendWeightOnlyExperts(FusedMoEMethodBase):
    """The method of a layer of experts in one of the layouts."""

    def __init__(self, moe: Any, prefix: str, scheme: Scheme, layout: Layout) -> None:
        super().__init__(moe)
        self.prefix = prefix
        self.scheme = scheme
        self.layout = layout

    def create_weights(
        self,
        layer: Any,
        num_experts: int,
        hidden_size: int,
        intermediate_size_per_partition: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        """Parameters as the checkpoint has them.

        Raises:
            ValueError: the experts cannot run in this form, or on this device.
        """
        inner = intermediate_size_per_partition
        matrices = {"w13": (hidden_size, 2 * inner), "w2": (inner, hidden_size)}
        for part, (rows, columns) in matrices.items():
            reason = self._refuses(rows, columns, columns // _PARTS[part], params_dtype)
            if reason:
                raise ValueError(f"{self.prefix} cannot run: {reason}")
            self._create(layer, part, num_experts, rows, columns, params_dtype)

    def _refuses(self, rows: int, columns: int, own_columns: int, dtype: torch.dtype) -> str:
        bits, group, _, ordered, _ = self.scheme
        each = 32 // bits
        groups = 1 if group == -1 else rows // group
        if ordered:
            return "groups in the order of the activations do not run here for experts: quantize with desc_act=False"
        if getattr(self.moe, "has_bias", False):
            return "experts with biases do not run here in this form: take a checkpoint whose experts are not quantized"
        if group != -1 and rows % group:
            return f"groups of {group} do not divide the {rows} rows per device: {self._remedy()}"
        packs_columns = self.layout.packed == self.layout.columns
        in_columns = packs_columns or bits == 4 or self._has_points()
        if (own_columns % each and in_columns) or (rows % each and not packs_columns):
            return f"one number holds {each}, which {rows} x {columns} per device cut apart: {self._remedy()}"
        return npu.weight_only_grouped_matmul_refuses(dtype, bits, groups)

    def _has_points(self) -> bool:
        """Whether the checkpoint does: symmetric ones in GPTQ's format have zero points all the same."""
        return self.scheme.shifted or self.layout is not COMPRESSED

    def _remedy(self) -> str:
        if self.moe.tp_size > 1:
            return "use fewer devices, or give them whole experts with --enable-expert-parallel"
        return "quantize with sizes that fit, or take a model that is not quantized"

    def _create(self, layer: Any, part: str, experts: int, rows: int, columns: int, dtype: torch.dtype) -> None:
        layout, each = self.layout, 32 // self.scheme.bits
        count = 1 if self.scheme.group == -1 else rows // self.scheme.group
        load = MethodType(load_expert, layer)

        def add(name: str, along_rows: int, along_columns: int, kind: torch.dtype) -> None:
            shape = (along_rows, along_columns) if layout.columns == 1 else (along_columns, along_rows)
            add_parameter(layer, f"{part}_{name}", (experts, *shape), kind, weight_loader=load, columns=layout.columns)

        packed = (rows, columns // each) if layout.packed == layout.columns else (rows // each, columns)
        add(layout.weight, *packed, torch.int32)
        add(layout.scale, count, columns, dtype)
        if self._has_points():
            add(layout.points, count, columns // each, torch.int32)
        whole = rows * (self.moe.tp_size if part == "w2" else 1)
        for name, length in ((layout.order, whole), (layout.sizes, 2)):
            if name:
                shape = (experts, _PARTS[part], length)
                add_parameter(layer, f"{part}_{name}", shape, torch.int32, weight_loader=load, columns=None, came=False)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Weights, scales and zero points as the operator takes them; which experts a rank holds.

        Raises:
            ValueError: groups are in another order than that of the rows.
        """
        for part in _PARTS:
            self._check_order(layer, part)
            self._prepare(layer, part)
            spend(layer, *(f"{part}_{name}" for name in (self.layout.points, self.layout.order, self.layout.sizes)))
        place(layer)

    def _check_order(self, layer: Any, part: str) -> None:
        order = getattr(layer, f"{part}_{self.layout.order}", None)
        if order is None or not order.came or self.scheme.group == -1:
            return
        groups = torch.arange(order.shape[-1], device="cpu") // self.scheme.group
        if not bool((order.data.cpu() == groups).all()):
            raise ValueError(
                f"{self.prefix} has its groups in another order than that of its rows, which does not run here for"
                " experts: quantize with desc_act=False"
            )

    def _prepare(self, layer: Any, part: str) -> None:
        layout, scheme = self.layout, self.scheme
        middle = 2 ** (scheme.bits - 1)
        packed, scale = (getattr(layer, f"{part}_{name}").data for name in (layout.weight, layout.scale))
        if layout.columns == 0:
            scale = scale.transpose(1, 2)
        # One expert at a time: unpacked they are eight times as large.
        weights = torch.stack([self._stored(layout.numbers(matrix, scheme) - middle) for matrix in packed])
        offset, of_groups = scale.new_zeros(scale.shape), None
        if scheme.shifted:
            points = getattr(layer, f"{part}_{layout.points}").data
            shift = middle - torch.stack([layout.zero_points(matrix, scheme) for matrix in points])
            if scale.shape[1] == 1:
                offset = shift.to(scale.dtype)
            else:
                of_groups = (shift * scale).to(scale.dtype).transpose(1, 2).contiguous()
        if scale.shape[1] == 1:
            scale, offset = scale.squeeze(1), offset.squeeze(1)
        make_ready(layer, f"{part}_{layout.weight}", weights)
        make_ready(layer, f"{part}_{layout.scale}", scale.contiguous())
        derive(layer, f"npu_{part}_offset", offset.contiguous())
        derive(layer, f"npu_{part}_of_groups", of_groups)

    def _stored(self, numbers: torch.Tensor) -> torch.Tensor:
        return npu.pack_int4(numbers.contiguous()) if self.scheme.bits == 4 else numbers.to(torch.int8).contiguous()

    def computed(self, layer: Any, rows: Any, counts: Any) -> Any:
        """What this rank's experts make of their rows, ``counts[i]`` of them for expert i."""
        return self._product(activated(layer, self._product(rows, layer, "w13", counts)), layer, "w2", counts)

    def _product(self, rows: Any, layer: Any, part: str, counts: Any) -> Any:
        weight, scale = getattr(layer, f"{part}_{self.layout.weight}"), getattr(layer, f"{part}_{self.layout.scale}")
        result = npu.weight_only_grouped_matmul(rows, weight, scale, getattr(layer, f"npu_{part}_offset"), counts)
        of_groups = getattr(layer, f"npu_{part}_of_groups")
        if of_groups is None:
            return result
        sums = rows.unflatten(1, (of_groups.shape[2], -1)).sum(-1)
        return result.add_(npu.grouped_matmul(sums, of_groups, counts))

    def get_fused_moe_quant_config(self, layer: Any) -> None:
        """For vLLM's own kernels."""

    def maybe_make_prepare_finalize(self, routing_tables: Any = None) -> None:
        """Keeps the method as it is; vLLM would make a kernel that an NPU does not have."""

    apply = _apply if "topk_ids" in _ASKED else _apply_with_router if "router" in _ASKED else _choose_and_apply


def load_expert(
    layer: Any,
    param: Any,
    loaded_weight: torch.Tensor,
    weight_name: str,
    shard_id: str,
    expert_id: int,
    return_success: bool = False,
) -> bool | None:
    """Put an expert's tensor, or this rank's part of it, into its place; vLLM's other loaders go by a method's name.

    Raises:
        ValueError: its sizes are others than the configuration says.
    """
    number = layer._map_global_expert_id_to_local_expert_id(expert_id)
    if number < 0:
        return False if return_success else None
    target = param.data[number]
    if param.columns is None:
        target = target[int(shard_id == "w3")]
        param.came = not param.is_meta
    else:
        # Ranks share out the columns of the first two matrices and the rows of the third.
        shared = param.columns if shard_id != "w2" else 1 - param.columns
        if shard_id != "w2":
            half = target.shape[shared] // 2
            target = target.narrow(shared, half * (shard_id == "w3"), half)
        size, ranks = target.shape[shared], layer.moe_config.tp_size
        if ranks > 1 and loaded_weight.dim() == 2 and loaded_weight.shape[shared] == size * ranks:
            loaded_weight = loaded_weight.narrow(shared, layer.moe_config.tp_rank * size, size)
    if loaded_weight.shape != target.shape:
        raise ValueError(
            f"{weight_name} of expert {expert_id} is {list(loaded_weight.shape)}, where the model's configuration says"
            f" {list(target.shape)}"
        )
    target.copy_(loaded_weight)
    return True if return_success else None
