"""Linear layers in GPTQ's and AWQ's formats: `qweight`, `qzeros` and `scales`, brought into the form of CANN's product.

Sources: AutoGPTQ and GPTQModel, QuantLinear.pack; AutoAWQ, WQLinear_GEMM.from_linear.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from vllm.model_executor.layers.linear import LinearMethodBase

from ascend_patch.patches.quantization._packed_configs import Scheme
from ascend_patch.patches.quantization._parameters import add_parameter, derive, spend
from ascend_patch.patches.quantization._weight_only_linear import AscendWeightOnlyKernel, unpacked

_COLUMN_OF_PLACE = (0, 2, 4, 6, 1, 3, 5, 7)
"""AWQ: which of eight columns lies in each place of an int32, from the lowest bits."""


_PLACE_OF_PART = {"q": 0, "k": 1, "v": 2}


class PackedLinearMethod(LinearMethodBase):
    """What both formats have in common: `qzeros` int32 ``[groups, n * bits / 32]`` and `scales` ``[groups, n]``."""

    packed_dimension: ClassVar[int]
    """Which dimension of `qweight` several numbers of one int32 lie along."""

    def __init__(self, prefix: str, scheme: Scheme) -> None:
        self.prefix = prefix
        self.scheme = scheme
        self.kernel: AscendWeightOnlyKernel

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        """Parameters as the checkpoint has them.

        Raises:
            ValueError: the layer cannot run in this form, or on this device.
        """
        bits, group, shifted = self.scheme[:3]
        rows, columns, each = input_size_per_partition, sum(output_partition_sizes), 32 // bits
        description = SimpleNamespace(
            partition_weight_shape=(rows, columns),
            weight_type=f"uint{bits}" if shifted else f"uint{bits}b{2 ** (bits - 1)}",
            act_type=params_dtype,
            group_size=group,
            zero_points=shifted,
        )
        can, reason = AscendWeightOnlyKernel.can_implement(description)
        if can and (rows % each or any(part % each for part in output_partition_sizes)):
            can, reason = (
                False,
                f"one number holds {each}, which {rows} x {output_partition_sizes} per device cut apart",
            )
        if not can:
            raise ValueError(f"{self.prefix} cannot run: {reason}")
        self.kernel = AscendWeightOnlyKernel(description, "qweight", "scales", "qzeros")
        load = attributes["weight_loader"]
        shape = [rows, columns]
        shape[self.packed_dimension] //= each
        packed = {"packed_factor": each, "output_dim": 1, "weight_loader": load}
        # One scale for whole columns: each device has it for its part of them.
        groups = {"input_dim": None if group == -1 else 0}
        count = 1 if group == -1 else rows // group
        add_parameter(layer, "qweight", (shape[0], shape[1]), torch.int32, input_dim=0,
                      packed_dim=self.packed_dimension, **packed)  # fmt: skip
        add_parameter(layer, "qzeros", (count, columns // each), torch.int32, packed_dim=1, **packed, **groups)
        add_parameter(layer, "scales", (count, columns), params_dtype, output_dim=1, weight_loader=load, **groups)

    def weights(self, layer: Any) -> torch.Tensor:
        """int32 ``[k, n]`` as stored, from 0."""
        raise NotImplementedError

    def zero_points(self, layer: Any) -> torch.Tensor:
        """int32 ``[groups, n]``."""
        raise NotImplementedError

    def process_weights_after_loading(self, layer: Any) -> None:
        points = self.zero_points(layer) if self.scheme.shifted else None
        self.kernel.keep(layer, self.weights(layer), layer.scales.data, points)
        spend(layer, "qzeros")

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return self.kernel.apply_weights(layer, x, bias)


# Both classes below have names that vLLM has not: by some of its own, older ones choose another loader of weights.
class AscendGPTQLinearMethod(PackedLinearMethod):
    """`qweight` int32 ``[k * bits / 32, n]``, and `g_idx` int32 ``[k]``: each row's group.

    Symmetric weights have the middle as their zero point, whatever `qzeros` says.
    """

    packed_dimension = 0

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        self.split = input_size != input_size_per_partition
        if self.scheme.ordered and self.split:
            self._refuse_split_groups()
        super().create_weights(
            layer, input_size_per_partition, output_partition_sizes, input_size, output_size, params_dtype, **attributes
        )
        # All rows' groups on every device: a part of them does not tell whether they are in order. One row for each
        # part, because vLLM counts what came when weights are reloaded.
        parts = len(output_partition_sizes)
        add_parameter(layer, "g_idx", (parts, input_size), torch.int32, weight_loader=_load_groups, came=False)

    def _refuse_split_groups(self) -> None:
        raise ValueError(
            f"{self.prefix} has its groups in the order of the activations, and its rows on several devices: use one"
            " device, or quantize with desc_act=False"
        )

    def weights(self, layer: Any) -> torch.Tensor:
        numbers = unpacked(layer.qweight.data, self.scheme.bits, along=0)
        return numbers if layer.npu_order is None else numbers.index_select(0, layer.npu_order)

    def zero_points(self, layer: Any) -> torch.Tensor:
        return gptq_zero_points(layer.qzeros.data, self.scheme)

    def process_weights_after_loading(self, layer: Any) -> None:
        order = self._order(self._groups(layer.g_idx))
        before: bool | None = getattr(layer, "npu_ordered", None)  # None while the engine starts
        if before is False and order is not None:
            raise ValueError(
                f"Weights were not reloaded: {self.prefix} had its groups in the order of its rows, and these come in"
                " that of the activations: start the engine again with them"
            )
        if before and order is None:
            order = torch.arange(layer.g_idx.shape[-1], device="cpu")
        layer.npu_ordered = order is not None
        derive(layer, "npu_order", None if order is None else order.to(layer.qweight.device))
        spend(layer, "g_idx")
        super().process_weights_after_loading(layer)

    def _groups(self, param: Any) -> torch.Tensor | None:
        if not param.came:
            return None
        groups: torch.Tensor = param.data.cpu().long()
        if not bool((groups == groups[0]).all()):
            raise ValueError(
                f"{self.prefix} is one matrix here, but its parts have their groups in different orders: quantize with"
                " desc_act=False"
            )
        return groups[0]

    def _order(self, groups: torch.Tensor | None) -> torch.Tensor | None:
        """Which row comes first, second, ... for groups to lie together; None if they do.

        Raises:
            ValueError: such groups do not run.
        """
        if groups is None:
            return None
        rows = groups.numel()
        # On the host, whatever the default is: vLLM processes reloaded layers with the NPU as such.
        together = torch.arange(rows, device="cpu") // (rows if self.scheme.group == -1 else self.scheme.group)
        if torch.equal(groups, together):
            return None
        if self.split:
            self._refuse_split_groups()
        order = torch.argsort(groups, stable=True)
        if not torch.equal(groups[order], together):
            raise ValueError(f"{self.prefix} has a g_idx whose groups do not have {self.scheme.group} rows each")
        return order

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rows = x if layer.npu_order is None else x.index_select(-1, layer.npu_order)
        return super().apply(layer, rows, bias)


def _load_groups(param: Any, loaded_weight: torch.Tensor, *shard: Any) -> None:
    places = param.data if not shard or shard[0] is None else param.data[_PLACE_OF_PART.get(shard[0], shard[0])]
    places.copy_(loaded_weight.expand_as(places))
    # A reload begins with calls on tensors without storage, of which the later ones are copies.
    param.came = not param.is_meta


class AscendAWQLinearMethod(PackedLinearMethod):
    """`qweight` int32 ``[k, n / 8]``; it and `qzeros` have columns in an order of their own."""

    packed_dimension = 1

    def weights(self, layer: Any) -> torch.Tensor:
        return in_awq_order(layer.qweight.data)

    def zero_points(self, layer: Any) -> torch.Tensor:
        return in_awq_order(layer.qzeros.data)


def gptq_zero_points(packed: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """int32 ``[groups, n]`` from `qzeros`."""
    if scheme.minus_one:
        # As the tools do it: from the whole int32, where a zero point of 0 has borrowed from its neighbour.
        packed = packed + sum(1 << place for place in range(0, 32, scheme.bits))
    return unpacked(packed, scheme.bits, along=1)


def in_awq_order(packed: torch.Tensor) -> torch.Tensor:
    """int32 ``[rows, 8 * n]``, 0 to 15, from int32 ``[rows, n]``."""
    place_of_column = [_COLUMN_OF_PLACE.index(column) for column in range(8)]
    places = unpacked(packed, 4, along=1).view(packed.shape[0], -1, 8)
    return torch.stack([places[..., place] for place in place_of_column], dim=2).flatten(1)
