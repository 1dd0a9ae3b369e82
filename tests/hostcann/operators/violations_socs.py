"""What operators refuse on 310P and on Ascend 950 but not on A2: those SoCs, and calls that violate one row each."""

from __future__ import annotations

from typing import Any

from .calls import T
from .violations_moe import INT4_GMM

Arguments = dict[str, Any]
F, I = "float32", "int32"  # noqa: E741

SOCS = {"310P": "Ascend310P3", "950": "Ascend950PR_9589"}

_MANY = 65536
_LATER_EP_BAD: list[tuple[str, Arguments]] = [
    ("epWorldSize", {"epWorldSize": 1}),
    ("tpWorldSize", {"tpWorldSize": 2}),
    ("sharedExpertNum", {"sharedExpertNum": 2}),
    ("commAlg", {"commAlg": "fullmesh"}),
    ("expertIds", {"expertIds": T((513, 2), I)}),
]
_SCALES_OF_GROUPS: list[tuple[str, Arguments]] = [("antiquantScale", INT4_GMM)]

INVALID_ON: dict[str, dict[str, list[tuple[str, Arguments]]]] = {
    "310P": {
        "aclnnSwiGlu": [
            ("x", {"x": T((4, 34)), "out": T((4, 17))}),
            ("x", {"x": T((0, 64)), "out": T((0, 32))}),
        ],
        "aclnnMoeFinalizeRoutingV2": [
            ("dropPadMode", {"dropPadMode": 0}),
            ("expandedX", {"expandedX": T((6, 16)), "out": T((3, 16))}),
            ("x1", {"x1": T((3, 32))}),
        ],
        "aclnnQuantMatmulWeightNz": [
            ("x2Scale", {"x2Scale": T((1,), F)}),
            ("bias", {"bias": T((16,), F)}),
            ("x1", {"x1": T((6, _MANY), "int8"), "x2": T((_MANY, 16), "int8", nz=True)}),
            (
                "x2",
                {
                    "x2": T((64, _MANY), "int8", nz=True),
                    "x2Scale": T((_MANY,), F),
                    "bias": T((_MANY,), I),
                    "out": T((6, _MANY)),
                },
            ),
        ],
        "aclnnDynamicQuantV2": [("x", {"x": T((4, 48)), "yOut": T((4, 48), "int8")})],
        "aclnnAscendQuantV3": [("axis", {"axis": -2})],
    },
    "950": {
        "aclnnClippedSwiglu": [("groupIndex", {"groupIndex": T((0,), "int64")})],
        "aclnnGroupedMatmulV4": _SCALES_OF_GROUPS,
        "aclnnGroupedMatmulV5": _SCALES_OF_GROUPS,
        "aclnnScatterPaKvCache": [
            (
                "cacheMode",
                {"cacheMode": "PA_NZ", "keyCache": T((4, 4, 16, 16)), "valueCache": T((4, 4, 16, 16))},
            )
        ],
        "aclnnMatmulAllReduce": [("group", {"group": "$three"})],
        "aclnnMatmulWeightNz": [("cubeMathType", {"cubeMathType": 1})],
        "aclnnNpuFormatCast": [
            ("srcTensor", {"srcTensor": T((1, 70)), "dstTensor": T((1, 70), nz=True)}),
            ("srcTensor", {"srcTensor": T((3, 1, 70)), "dstTensor": T((3, 1, 70), nz=True)}),
        ],
        "aclnnMoeDistributeDispatchV2": [
            *_LATER_EP_BAD,
            ("x", {"x": T((3, 992)), "expandXOut": T((12, 992))}),
            ("expertScales", {"expertScales": T((3, 2), F)}),
        ],
        "aclnnMoeDistributeCombineV2": [
            *_LATER_EP_BAD,
            ("expandX", {"expandX": T((12, 992)), "xOut": T((3, 992))}),
            ("expandScales", {"expandScales": T((12,), F)}),
        ],
    },
}
