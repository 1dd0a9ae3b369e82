"""The one door to torch_npu: one plain, documented function per operator that the patches use.

``from ascend_patch import npu`` imports neither torch nor torch_npu. The first use of a name imports what it needs and
leaves the function behind as an ordinary global of this module, so that later uses cost an attribute look-up and
torch.compile sees a plain function. What depends on the SoC is decided once, when a function's module is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

_MODULES = {
    "activation": ("fast_gelu", "gelu_tanh", "swiglu"),
    "attention": (
        "paged_attention",
        "paged_attention_supports",
        "varlen_attention",
        "varlen_attention_and_lse",
        "varlen_attention_supports",
    ),
    "collectives": ("all_gather_rows", "matmul_all_reduce", "matmul_all_reduce_refuses", "reduce_scatter_rows"),
    "device": (
        "Stream",
        "device_count",
        "device_name",
        "is_available",
        "soc_family",
        "supports_bfloat16",
        "total_memory",
        "vector_core_count",
    ),
    "int8_cache": ("dequantise", "int8_attention", "int8_attention_refuses"),
    "latent": ("latent_attention", "latent_attention_refuses", "merge_attention", "unfolded_attention"),
    "kv_cache": ("compute_slot_mapping", "context_slots", "scatter_kv_cache", "slots_of"),
    "moe": (
        "clipped_swiglu",
        "combine_tokens",
        "gate_groups",
        "gate_groups_supports",
        "gate_softmax",
        "grouped_matmul",
        "int8_grouped_matmul",
        "route_tokens",
        "weight_only_grouped_matmul",
    ),
    "moe_ranks": ("Ranks", "Received", "ranks_of", "return_tokens", "send_tokens", "send_tokens_supports"),
    "norm": ("add_rms_norm", "gemma_rms_norm", "rms_norm"),
    "quantisation": (
        "int8_matmul",
        "int8_grouped_matmul_refuses",
        "int8_matmul_refuses",
        "int8_weight_refuses",
        "pack_int4",
        "quantise",
        "quantise_rows",
        "weight_only_grouped_matmul_refuses",
        "weight_only_matmul",
        "weight_only_matmul_refuses",
    ),
    "rotary": (
        "multimodal_rotary_embedding",
        "rotary_embedding",
        "rotary_embedding_supports",
        "rotate_rows",
        "rotate_rows_supports",
        "widen_rotary_table",
    ),
    "sampling": ("top_k_top_p",),
    "virtual_memory": ("Segment", "SegmentPool", "virtual_memory_refuses"),
    "weights": ("fills_nz_tiles", "format_cast_nz", "is_nz", "nz_has_a_place_for", "nz_matmul_refuses"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Ranks",
    "Received",
    "Segment",
    "SegmentPool",
    "Stream",
    "add_rms_norm",
    "all_gather_rows",
    "clipped_swiglu",
    "combine_tokens",
    "compute_slot_mapping",
    "context_slots",
    "dequantise",
    "device_count",
    "device_name",
    "fast_gelu",
    "fills_nz_tiles",
    "format_cast_nz",
    "gate_groups",
    "gate_groups_supports",
    "gate_softmax",
    "gelu_tanh",
    "gemma_rms_norm",
    "grouped_matmul",
    "int8_attention",
    "int8_attention_refuses",
    "int8_grouped_matmul",
    "int8_grouped_matmul_refuses",
    "int8_matmul",
    "int8_matmul_refuses",
    "int8_weight_refuses",
    "is_available",
    "is_nz",
    "latent_attention",
    "latent_attention_refuses",
    "matmul_all_reduce",
    "matmul_all_reduce_refuses",
    "merge_attention",
    "multimodal_rotary_embedding",
    "nz_has_a_place_for",
    "nz_matmul_refuses",
    "pack_int4",
    "paged_attention",
    "paged_attention_supports",
    "quantise",
    "quantise_rows",
    "ranks_of",
    "reduce_scatter_rows",
    "return_tokens",
    "rms_norm",
    "rotary_embedding",
    "rotary_embedding_supports",
    "rotate_rows",
    "rotate_rows_supports",
    "route_tokens",
    "scatter_kv_cache",
    "send_tokens",
    "send_tokens_supports",
    "slots_of",
    "soc_family",
    "supports_bfloat16",
    "swiglu",
    "top_k_top_p",
    "total_memory",
    "unfolded_attention",
    "varlen_attention",
    "varlen_attention_and_lse",
    "varlen_attention_supports",
    "vector_core_count",
    "virtual_memory_refuses",
    "weight_only_grouped_matmul",
    "weight_only_grouped_matmul_refuses",
    "weight_only_matmul",
    "weight_only_matmul_refuses",
    "widen_rotary_table",
]

if TYPE_CHECKING:
    from ascend_patch.npu.activation import fast_gelu, gelu_tanh, swiglu
    from ascend_patch.npu.attention import (
        paged_attention,
        paged_attention_supports,
        varlen_attention,
        varlen_attention_and_lse,
        varlen_attention_supports,
    )
    from ascend_patch.npu.collectives import (
        all_gather_rows,
        matmul_all_reduce,
        matmul_all_reduce_refuses,
        reduce_scatter_rows,
    )
    from ascend_patch.npu.device import (
        Stream,
        device_count,
        device_name,
        is_available,
        soc_family,
        supports_bfloat16,
        total_memory,
        vector_core_count,
    )
    from ascend_patch.npu.int8_cache import dequantise, int8_attention, int8_attention_refuses
    from ascend_patch.npu.kv_cache import compute_slot_mapping, context_slots, scatter_kv_cache, slots_of
    from ascend_patch.npu.latent import (
        latent_attention,
        latent_attention_refuses,
        merge_attention,
        unfolded_attention,
    )
    from ascend_patch.npu.moe import (
        clipped_swiglu,
        combine_tokens,
        gate_groups,
        gate_groups_supports,
        gate_softmax,
        grouped_matmul,
        int8_grouped_matmul,
        route_tokens,
        weight_only_grouped_matmul,
    )
    from ascend_patch.npu.moe_ranks import (
        Ranks,
        Received,
        ranks_of,
        return_tokens,
        send_tokens,
        send_tokens_supports,
    )
    from ascend_patch.npu.norm import add_rms_norm, gemma_rms_norm, rms_norm
    from ascend_patch.npu.quantisation import (
        int8_grouped_matmul_refuses,
        int8_matmul,
        int8_matmul_refuses,
        int8_weight_refuses,
        pack_int4,
        quantise,
        quantise_rows,
        weight_only_grouped_matmul_refuses,
        weight_only_matmul,
        weight_only_matmul_refuses,
    )
    from ascend_patch.npu.rotary import (
        multimodal_rotary_embedding,
        rotary_embedding,
        rotary_embedding_supports,
        rotate_rows,
        rotate_rows_supports,
        widen_rotary_table,
    )
    from ascend_patch.npu.sampling import top_k_top_p
    from ascend_patch.npu.virtual_memory import Segment, SegmentPool, virtual_memory_refuses
    from ascend_patch.npu.weights import (
        fills_nz_tiles,
        format_cast_nz,
        is_nz,
        nz_has_a_place_for,
        nz_matmul_refuses,
    )


def __getattr__(name: str) -> object:
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
