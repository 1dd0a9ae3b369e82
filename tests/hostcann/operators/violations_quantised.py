"""What the operators on int8 refuse; `violations` has the rest."""

from __future__ import annotations

from typing import Any

from .calls import T

Arguments = dict[str, Any]
H, F, I = "float16", "float32", "int32"  # noqa: E741

_PRODUCT = {
    "x1": T((6, 64), "int8"),
    "x2": T((64, 16), "int8"),
    "x1Scale": T((6,), F),
    "x2Scale": T((16,), F),
    "bias": T((16,), F),
    "out": T((6, 16)),
}
_WEIGHT_ONLY = {
    "x": T((6, 64)),
    "weight": T((64, 16), "int8"),
    "antiquantScale": T((2, 16)),
    "antiquantOffset": T((2, 16)),
    "bias": T((16,)),
    "antiquantGroupSize": 32,
    "y": T((6, 16)),
}
_LONG = {"x1Scale": None, "out": T((6, 16), "bfloat16")}

VALID_QUANTISED: dict[str, Arguments] = {
    "aclnnDynamicQuantV2": {
        "x": T((4, 64)),
        "dstType": 2,
        "yOut": T((4, 64), "int8"),
        "scaleOut": T((4,), F),
    },
    "aclnnAscendQuantV3": {
        "x": T((4, 64)),
        "scale": T((64,)),
        "offset": T((64,)),
        "roundMode": "round",
        "dstType": 2,
        "axis": -1,
        "y": T((4, 64), "int8"),
    },
    "aclnnQuantMatmulV5": _PRODUCT,
    "aclnnWeightQuantBatchMatmulV2": _WEIGHT_ONLY,
}

INVALID_QUANTISED: dict[str, list[tuple[str, Arguments]]] = {
    "aclnnDynamicQuantV2": [
        ("dstType", {"dstType": 29}),
        ("yOut", {"yOut": T((4, 32), "int8")}),
        ("scaleOut", {"scaleOut": T((3,), F)}),
    ],
    "aclnnAscendQuantV3": [
        ("dstType", {"dstType": 3}),
        ("roundMode", {"roundMode": "floor"}),
        ("axis", {"x": T((2, 4, 64)), "axis": 0, "y": T((2, 4, 64), "int8")}),
        ("axis", {"axis": 2}),
        ("scale", {"scale": T((64,), F), "offset": T((64,), F)}),
        ("scale", {"scale": T((32,)), "offset": T((32,))}),
        ("scale", {"scale": T((4, 64)), "offset": T((4, 64))}),
        ("offset", {"offset": T((1,))}),
        ("offset", {"offset": T((64,), F)}),
        ("y", {"y": T((4, 32), "int8")}),
    ],
    "aclnnQuantMatmulV5": [
        ("transposeX1", {"transposeX1": True}),
        ("transposeX2", {"transposeX2": True}),
        ("groupSize", {"groupSize": 128}),
        ("x1", {"x1": T((6, 64), "int8", (128, 1))}),
        ("x2", {"x2": T((64, 16), "int8", (1, 128))}),
        ("x1", {"x1": T((0, 64), "int8")}),
        ("x1", {"x1": T((6, 0), "int8")}),
        ("x2", {"x2": T((64, 0), "int8")}),
        ("x2", {"x2": T((32, 16), "int8")}),
        ("x1", {**_LONG, "x1": T((6, 65536), "int8"), "x2": T((65536, 16), "int8")}),
        ("x2", {**_LONG, "x1": T((6, 64), "int8"), "x2": T((64, 65536), "int8")}),
        ("x1Scale", {"x1Scale": T((1,), F)}),
        ("x2Scale", {"x2Scale": T((8,), F)}),
        ("x1Scale", {"x1Scale": None}),
        ("x2Scale", {"x2Scale": T((16,), "bfloat16")}),
        ("bias", {"bias": T((16,), "bfloat16")}),
        ("bias", {"bias": T((8,), F)}),
        ("out", {"out": T((6, 8))}),
        ("out", {"out": T((5, 16))}),
    ],
    "aclnnWeightQuantBatchMatmulV2": [
        ("weight", {"weight": T((64, 16), "int8", (32, 1))}),
        ("weight", {"weight": T((64, 2), I, (1, 64))}),
        ("x", {"x": T((0, 64)), "y": T((0, 16))}),
        (
            "x",
            {"x": T((6, 65536)), "weight": T((65536, 2), I), "antiquantScale": T((2048, 16)), "antiquantOffset": None},
        ),
        (
            "weight",
            {
                "weight": T((64, 0), "int8"),
                "antiquantScale": T((2, 0)),
                "antiquantOffset": None,
                "bias": None,
                "y": T((6, 0)),
            },
        ),
        ("weight", {"weight": T((32, 16), "int8")}),
        ("antiquantGroupSize", {"antiquantGroupSize": 16}),
        ("antiquantGroupSize", {"antiquantGroupSize": 64}),
        ("antiquantGroupSize", {"antiquantGroupSize": 40}),
        ("antiquantScale", {"antiquantScale": T((2, 16), "bfloat16"), "antiquantOffset": T((2, 16), "bfloat16")}),
        ("antiquantScale", {"antiquantScale": T((16,)), "antiquantOffset": T((16,))}),
        ("antiquantScale", {"antiquantScale": T((4, 16)), "antiquantOffset": T((4, 16))}),
        ("antiquantScale", {"antiquantGroupSize": 0}),
        ("antiquantScale", {"weight": T((64, 16), I), "bias": None, "y": T((6, 128))}),
        ("antiquantOffset", {"antiquantOffset": T((16,))}),
        ("antiquantOffset", {"antiquantOffset": T((2, 16), "bfloat16")}),
        ("bias", {"bias": T((16,), F)}),
        ("bias", {"bias": T((8,))}),
        ("bias", {"bias": T((2, 16))}),
        ("y", {"y": T((6, 8))}),
        ("y", {"y": T((5, 16))}),
        ("y", {"y": T((6, 16), "bfloat16")}),
    ],
}
