"""What the operators on weights in FRACTAL_NZ refuse; `violations` has the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .calls import T
from .violations_moe import GMM, GMM_BAD
from .violations_quantised import INVALID_QUANTISED, VALID_QUANTISED

Arguments = dict[str, Any]
B, H, F, I = "bfloat16", "float16", "float32", "int32"  # noqa: E741


def _tiled(arguments: Arguments, name: str) -> Arguments:
    return {**arguments, name: replace(arguments[name], nz=True)} if name in arguments else arguments


def _in_tiles(bad: list[tuple[str, Arguments]], name: str) -> list[tuple[str, Arguments]]:
    """The same with the weight in tiles; what its strides or a type break is no rule then."""

    def remains(arguments: Arguments) -> bool:
        weight = arguments.get(name)
        return weight is None or (weight.strides is None and weight.dtype != F)

    return [(argument, _tiled(arguments, name)) for argument, arguments in bad if remains(arguments)]


_CAST = {"srcTensor": T((33, 70)), "dstTensor": T((33, 70), nz=True)}
_MATMUL = {"self": T((6, 64)), "mat2": T((64, 16), nz=True), "out": T((6, 16))}
_ADDMM = {"self": T((16,)), "mat1": T((6, 64)), "mat2": T((64, 16), nz=True), "out": T((6, 16))}


def _product(x: str) -> list[tuple[str, Arguments]]:
    return [
        ("cubeMathType", {"cubeMathType": 2}),
        (x, {x: T((6, 64), H, (128, 1))}),
        ("mat2", {"mat2": T((64, 16), B, nz=True)}),
        ("out", {"out": T((6, 16), B)}),
        ("mat2", {"mat2": T((32, 16), nz=True)}),
        ("mat2", {"mat2": T((64, 1), nz=True), "out": T((6, 1))}),
        ("out", {"out": T((6, 8))}),
        ("out", {"out": T((5, 16))}),
    ]


_V5, _V5_BAD = VALID_QUANTISED["aclnnQuantMatmulV5"], INVALID_QUANTISED["aclnnQuantMatmulV5"]

VALID_FORMATS: dict[str, Arguments] = {
    "aclnnNpuFormatCast": _CAST,
    "aclnnMatmulWeightNz": _MATMUL,
    "aclnnAddmmWeightNz": _ADDMM,
    "aclnnQuantMatmulWeightNz": {**_tiled(_V5, "x2"), "bias": T((16,), I)},
    "aclnnGroupedMatmulWeightNz": _tiled(GMM, "weight"),
}

INVALID_FORMATS: dict[str, list[tuple[str, Arguments]]] = {
    "aclnnNpuFormatCast": [
        ("dstTensor", {"dstTensor": T((33, 70))}),
        ("dstTensor", {"srcTensor": T((33, 70), nz=True)}),
        ("dstTensor", {"dstTensor": T((33, 70), B, nz=True)}),
        ("dstTensor", {"dstTensor": T((33, 72), nz=True)}),
        ("srcTensor", {"srcTensor": T((0, 70)), "dstTensor": T((0, 70), nz=True)}),
        ("dstTensor", {"dstTensor": T((33, 70), nz=True, storage=(5, 2, 16, 16))}),
    ],
    "aclnnMatmulWeightNz": _product("self"),
    "aclnnAddmmWeightNz": [
        *_product("mat1"),
        ("self", {"self": T((16,), B)}),
        ("self", {"self": T((8,))}),
        ("self", {"self": T((2, 16))}),
    ],
    "aclnnQuantMatmulWeightNz": [
        *_in_tiles(_V5_BAD, "x2"),
        ("x2", {"x2": replace(_V5["x2"], strides=(1, 64), nz=True)}),
        ("x2", {"x2": T((64, 1), "int8", nz=True), "x2Scale": T((1,), F), "bias": T((1,), I), "out": T((6, 1))}),
    ],
    "aclnnGroupedMatmulWeightNz": [
        *_in_tiles(GMM_BAD, "weight"),
        ("weight", {"weight": T((4, 32, 16), "int8", nz=True)}),
        ("weight", {"x": T((6, 24)), "weight": T((4, 24, 16), nz=True)}),
        (
            "groupList",
            {"weight": T((1, 32, 16), nz=True), "bias": T((1, 16)), "groupList": T((1,), "int64"), "groupListType": 1},
        ),
        ("quantGroupSize", {"quantGroupSize": 256}),
    ],
}
