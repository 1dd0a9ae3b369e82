"""What latent attention and the joining of partial attention refuse; `violations` has the rest."""

from __future__ import annotations

from typing import Any

from .calls import T

Arguments = dict[str, Any]

UPDATE: Arguments = {
    "lse[0]": T((12,), "float32"),
    "lse[1]": T((12,), "float32"),
    "localOut[0]": T((12, 128)),
    "localOut[1]": T((12, 128)),
    "updateType": 1,
    "out": T((12, 128)),
    "lseOut": T((12,), "float32"),
}
_NARROW = T((12, 20))
_THREE = {
    "lse[0]+lse[1]": [T((12,), "float32")] * 3,
    "localOut[0]+localOut[1]": [T((12, 128))] * 3,
}
UPDATE_BAD: list[tuple[str, Arguments]] = [
    ("sp", _THREE),
    ("updateType", {"updateType": 2}),
    ("lseOut", {"lseOut": None}),
    ("lseOut", {"updateType": 0}),
    ("localOut[0]", {"localOut[0]": _NARROW, "localOut[1]": _NARROW, "out": _NARROW}),
    ("localOut[1]", {"localOut[1]": T((12, 64))}),
    ("localOut[1]", {"localOut[1]": T((12, 128), "bfloat16")}),
    ("lse[0]", {"lse[0]": T((11,), "float32")}),
    ("lse[1]", {"lse[1]": T((11,), "float32")}),
    ("out", {"out": T((12, 64))}),
    ("out", {"out": T((12, 128), "bfloat16")}),
    ("lseOut", {"lseOut": T((11,), "float32")}),
]

# Three requests with one query row each.
LATENT: Arguments = {
    "query": T((3, 1, 4, 512)),
    "key": T((6, 128, 512)),
    "value": T((6, 128, 512)),
    "queryRope": T((3, 1, 4, 64)),
    "keyRope": T((6, 128, 64)),
    "attenMask": None,
    "actualSeqLengths": None,
    "actualSeqLengthsKv": [130, 4, 200],
    "blockTable": T((3, 2), "int32"),
    "numKeyValueHeads": 1,
    "sparseMode": 0,
    "inputLayout": "BSND",
    "attentionOut": T((3, 1, 4, 512)),
}


def _queries(rows: int, heads: int, **more: Any) -> Arguments:
    query = T((3, rows, heads, 512))
    rope = T((3, rows, heads, 64))
    return {**LATENT, "query": query, "queryRope": rope, "numHeads": heads, "attentionOut": query, **more}


_MASKED = {"attenMask": T((2048, 2048), "bool"), "sparseMode": 3}
_OTHER_SIZES = {
    "query": T((5, 2, 192)),
    "key": T((9, 2, 192)),
    "value": T((9, 2, 128)),
    "numHeads": 2,
    "actualSeqLengths": [1, 5],
    "actualSeqLengthsKv": [5, 9],
    "blockTable": None,
    "blockSize": 0,
    "attentionOut": T((5, 2, 128)),
}
LATENT_BAD: list[tuple[str, Arguments]] = [
    ("sparseMode", {**_OTHER_SIZES, "sparseMode": 4}),
    ("value", {**_OTHER_SIZES, "value": T((9, 2, 160)), "attentionOut": T((5, 2, 160))}),
    ("queryRope", {**LATENT, "keyRope": None}),
    ("queryRope", {**LATENT, "queryRope": None}),
    (
        "query",
        {
            **LATENT,
            "query": T((3, 1, 4, 128)),
            "key": T((6, 128, 128)),
            "value": T((6, 128, 128)),
            "attentionOut": T((3, 1, 4, 128)),
        },
    ),
    ("queryRope", {**LATENT, "queryRope": T((3, 1, 4, 64), "bfloat16")}),
    ("keyRope", {**LATENT, "keyRope": T((6, 128, 64), "bfloat16")}),
    ("queryRope", {**LATENT, "queryRope": T((3, 1, 4, 32))}),
    ("keyRope", {**LATENT, "keyRope": T((6, 128, 32))}),
    (
        "inputLayout",
        {
            **LATENT,
            "query": T((3, 4, 1, 512)),
            "queryRope": T((3, 4, 1, 64)),
            "attentionOut": T((3, 1, 4, 512)),
            "inputLayout": "BNSD_BSND",
        },
    ),
    ("numHeads", _queries(1, 6)),
    (
        "numHeads",
        {
            **LATENT,
            **_MASKED,
            "query": T((6, 4, 512)),
            "queryRope": T((6, 4, 64)),
            "attentionOut": T((6, 4, 512)),
            "actualSeqLengths": [2, 4, 6],
            "inputLayout": "TND",
        },
    ),
    (
        "numKeyValueHeads",
        {
            **LATENT,
            "key": T((6, 128, 1024)),
            "value": T((6, 128, 1024)),
            "keyRope": T((6, 128, 128)),
            "numKeyValueHeads": 2,
        },
    ),
    (
        "blockTable",
        {
            **LATENT,
            "key": T((3, 128, 1, 512)),
            "value": T((3, 128, 1, 512)),
            "keyRope": T((3, 128, 1, 64)),
            "actualSeqLengthsKv": [128, 4, 20],
            "blockTable": None,
            "blockSize": 0,
        },
    ),
    (
        "blockSize",
        {
            **LATENT,
            "key": T((6, 64, 512)),
            "value": T((6, 64, 512)),
            "keyRope": T((6, 64, 64)),
            "blockTable": T((3, 4), "int32"),
            "blockSize": 64,
        },
    ),
    ("softmaxLseFlag", {**LATENT, "softmaxLseFlag": True, "softmaxLse": T((3, 4, 1, 1), "float32")}),
    ("actualSeqLengths", _queries(17, 4, **_MASKED)),
    ("actualSeqLengths", _queries(2, 4, **_MASKED, actualSeqLengths=[2, 1, 2])),
    ("sparseMode", {**LATENT, **_MASKED}),
    ("sparseMode", _queries(2, 4)),
]
