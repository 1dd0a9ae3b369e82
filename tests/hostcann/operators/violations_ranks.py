"""What the product that is added up over ranks refuses; `violations` has the rest."""

from __future__ import annotations

from typing import Any

from .calls import T

Arguments = dict[str, Any]

VALID_RANKS: dict[str, Arguments] = {
    "aclnnMatmulAllReduce": {
        "x1": T((6, 64)),
        "x2": T((64, 16)),
        "bias": T((16,)),
        "group": "$used",
        "reduceOp": "sum",
        "streamMode": 1,
        "output": T((6, 16)),
    },
}

INVALID_RANKS: dict[str, list[tuple[str, Arguments]]] = {
    "aclnnMatmulAllReduce": [
        ("group", {"group": "nobody"}),
        ("group", {"group": "$three"}),
        ("group", {"group": "$kept"}),
        ("reduceOp", {"reduceOp": "max"}),
        ("commTurn", {"commTurn": 1}),
        ("streamMode", {"streamMode": 0}),
        ("x2", {"x2": T((64, 16), "bfloat16")}),
        ("bias", {"bias": T((16,), "bfloat16")}),
        ("output", {"output": T((6, 16), "bfloat16")}),
        ("x2", {"x2": T((64, 16), "float16", (32, 1))}),
        ("x2", {"x2": T((64, 16), "float16", (1, 128))}),
        ("x1", {"x1": T((0, 64)), "output": T((0, 16))}),
        ("x2", {"x2": T((64, 0)), "bias": None, "output": T((6, 0))}),
        ("x2", {"x2": T((32, 16))}),
        ("bias", {"bias": T((8,))}),
        ("output", {"output": T((5, 16))}),
        ("output", {"output": T((6, 8))}),
        ("output", {"output": T((2, 3, 16))}),
        ("output", {"x1": T((2, 3, 64))}),
    ],
}
