"""What attention to int8 keys and values refuses; `violations` has the rest."""

from __future__ import annotations

from typing import Any

from .calls import T

Arguments = dict[str, Any]

_STEPS = T((1, 128))
# Three requests with one query row each.
INT8: Arguments = {
    "query": T((3, 1, 4, 64)),
    "key": T((6, 128, 128), "int8"),
    "value": T((6, 128, 128), "int8"),
    "keyAntiquantScale": _STEPS,
    "valueAntiquantScale": _STEPS,
    "keyAntiquantOffset": _STEPS,
    "valueAntiquantOffset": _STEPS,
    "attenMask": None,
    "actualSeqLengths": None,
    "actualSeqLengthsKv": [130, 4, 200],
    "blockTable": T((3, 2), "int32"),
    "sparseMode": 0,
    "inputLayout": "BSND",
    "attentionOut": T((3, 1, 4, 64)),
}
_WRONG = T((1, 64))
_OTHER_TYPE = T((1, 128), "bfloat16")


def _sizes(size: int) -> Arguments:
    cache, steps, query = T((6, 128, 2 * size), "int8"), T((1,)), T((3, 1, 4, size))
    return {
        **INT8,
        "query": query,
        "key": cache,
        "value": cache,
        "keyAntiquantScale": steps,
        "valueAntiquantScale": steps,
        "keyAntiquantOffset": None,
        "valueAntiquantOffset": None,
        "attentionOut": query,
    }


def _blocks(size: int) -> Arguments:
    cache = T((6, size, 128), "int8")
    return {**INT8, "key": cache, "value": cache, "blockSize": size, "blockTable": T((3, 20), "int32")}


INT8_BAD: list[tuple[str, Arguments]] = [
    ("value", {**INT8, "value": T((6, 128, 128))}),
    ("queryRope", {**INT8, "queryRope": T((3, 1, 4, 64)), "keyRope": T((6, 128, 128))}),
    ("keyAntiquantScale", {**INT8, "keyAntiquantScale": None, "keyAntiquantOffset": None}),
    ("keyAntiquantScale", {"keyAntiquantScale": _STEPS, "valueAntiquantScale": _STEPS}),
    ("valueAntiquantScale", {**INT8, "valueAntiquantScale": None}),
    ("valueAntiquantOffset", {**INT8, "valueAntiquantOffset": None}),
    ("antiquantMode", {**INT8, "antiquantMode": 1}),
    ("keyAntiquantMode", {**INT8, "keyAntiquantMode": 2}),
    ("valueAntiquantMode", {**INT8, "valueAntiquantMode": 1}),
    ("keyAntiquantScale", {**INT8, "keyAntiquantScale": _OTHER_TYPE, "valueAntiquantScale": _OTHER_TYPE}),
    ("keyAntiquantScale", {**INT8, "keyAntiquantScale": _WRONG, "valueAntiquantScale": _WRONG}),
    ("valueAntiquantScale", {**INT8, "valueAntiquantScale": T((1, 2, 64))}),
    ("valueAntiquantScale", {**INT8, "valueAntiquantScale": _OTHER_TYPE}),
    ("keyAntiquantOffset", {**INT8, "keyAntiquantOffset": _OTHER_TYPE}),
    ("valueAntiquantOffset", {**INT8, "valueAntiquantOffset": _WRONG}),
    (
        "inputLayout",
        {
            **INT8,
            "query": T((3, 4, 64)),
            "attentionOut": T((3, 4, 64)),
            "actualSeqLengths": [1, 2, 3],
            "inputLayout": "TND",
        },
    ),
    ("inputLayout", {**INT8, "query": T((3, 4, 1, 64)), "inputLayout": "BNSD_BSND"}),
    ("query", {**INT8, "query": T((3, 2, 4, 64)), "attentionOut": T((3, 2, 4, 64))}),
    ("query", _sizes(48)),
    ("blockSize", _blocks(48)),
    ("blockSize", _blocks(544)),
    ("sparseMode", {**INT8, "sparseMode": 3, "attenMask": T((2048, 2048), "bool")}),
    ("attenMask", {**INT8, "attenMask": T((3, 256), "bool")}),
    ("attenMask", {**INT8, "attenMask": T((3, 1, 1, 255), "bool")}),
    ("innerPrecise", {**INT8, "innerPrecise": 2}),
]
