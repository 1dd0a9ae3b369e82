"""Every row of every constraint table, violated once: the code, and a message with value, limit and source."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .calls import BUFFER_BYTES, SIGNATURES, Opapi, T
from .violations import INVALID, VALID

NULLPTR, INVALID_PARAM, RUNTIME = 161001, 161002, 361001
CASES = [(operator, index) for operator, bad in INVALID.items() for index in range(len(bad))]


@pytest.fixture(scope="module")
def library(opapi: ctypes.CDLL) -> Opapi:
    import torch

    from ascend_patch.hostcann import _loader

    return Opapi(opapi, _loader.handle("ascendcl"), torch.empty(BUFFER_BYTES, dtype=torch.uint8).npu())


def rule_of(table: dict[str, Any], message: str) -> dict[str, Any]:
    """The rule that a message quotes."""
    found = [
        rule
        for rule in table["rules"]
        if f": {rule['argument']} is " in message
        and f"; allowed: {rule['allowed']} (source: {table['source']}, {rule['section']})" in message
    ]
    assert len(found) == 1, message
    return found[0]


def test_every_table_is_covered(tables: dict[str, Any]) -> None:
    assert set(tables) == set(SIGNATURES) == set(VALID) == set(INVALID)


@pytest.mark.parametrize("operator", VALID)
def test_the_starting_point_is_accepted(operator: str, library: Opapi) -> None:
    assert library.check(operator, VALID[operator]) == (0, "")


@pytest.mark.parametrize(("operator", "index"), CASES)
def test_a_violated_rule(operator: str, index: int, library: Opapi, tables: dict[str, Any]) -> None:
    argument, change = INVALID[operator][index]
    code, message = library.check(operator, {**VALID[operator], **change})
    rule = rule_of(tables[operator], message)
    assert rule["argument"] == argument
    assert code == rule["code"]
    assert operator in message


@pytest.mark.parametrize("operator", VALID)
def test_no_rule_is_left_out(operator: str, library: Opapi, tables: dict[str, Any]) -> None:
    seen = [
        rule_of(tables[operator], library.check(operator, {**VALID[operator], **change})[1])
        for _, change in INVALID[operator]
    ]
    binding = [rule for rule in tables[operator]["rules"] if "910B" in rule["families"].split(", ")]
    assert [rule for rule in binding if rule not in seen] == []


def rows(tables: dict[str, Any], operator: str, presence: str) -> list[dict[str, Any]]:
    return [row for row in tables[operator]["tensors"] if row["presence"] == presence]


def given(operator: str, row: dict[str, Any]) -> T | None:
    value = VALID[operator].get(row["name"])
    assert value is None or isinstance(value, T)
    return value


@pytest.mark.parametrize("operator", VALID)
def test_tensor_rows(operator: str, library: Opapi, tables: dict[str, Any]) -> None:
    def refused(name: str, spec: T | None) -> tuple[int, str]:
        return library.check(operator, {**VALID[operator], name: spec})

    for row in tables[operator]["tensors"]:
        name, spec = row["name"], given(operator, row)
        if row["presence"] == "unsupported":
            code, message = refused(name, T((1,), "float32"))
            assert (code, f"{operator}: {name} is given" in message) == (INVALID_PARAM, True)
            continue
        if row["presence"] == "required":
            code, message = refused(name, None)
            assert (code, f"{operator}: {name} is not given" in message) == (NULLPTR, True)
        if spec is None:
            continue
        wrong = "float8_e5m2" if "float64" in row["dtypes"] else "float64"
        code, message = refused(name, T(spec.shape, wrong))
        assert code == INVALID_PARAM and f"{name} is {wrong}" in message and row["dtypes"] in message
        for dims in (row["min_dims"] - 1, row["max_dims"] + 1):
            if dims >= 0:
                code, message = refused(name, T((1,) * dims, spec.dtype))
                assert code == INVALID_PARAM and "dimensions" in message and f": {name} is " in message
        if row["layout"] == "ND" and row["min_dims"] >= 2 and spec.dtype in ("float16", "int8"):
            code, message = refused(name, replace(spec, nz=True))
            assert code == INVALID_PARAM and "in FRACTAL_NZ" in message and "allowed: format ND" in message
        if row["contiguous"] and len(spec.shape) > 1 and min(spec.shape) > 1:
            backwards = tuple(spec.shape[1] ** 0 if i == 0 else 2 * stride for i, stride in enumerate(_strides(spec)))
            code, message = refused(name, T(spec.shape, spec.dtype, backwards))
            assert code == INVALID_PARAM and "a contiguous tensor" in message and f": {name} is " in message
        if 0 not in spec.shape:
            code, message = refused(name, replace(spec, host=True))
            assert code == RUNTIME and f"{name} is " in message and "outside device memory" in message


def _strides(spec: T) -> list[int]:
    strides, step = [], 1
    for size in reversed(spec.shape):
        strides.insert(0, step)
        step *= size
    return strides


def test_lists_of_several_tensors_are_refused(library: Opapi) -> None:
    call = VALID["aclnnFusedInferAttentionScoreV3"]
    code, message = library.check("aclnnFusedInferAttentionScoreV3", {**call, "key": [call["key"], call["key"]]})
    assert code == INVALID_PARAM and "key must hold exactly one tensor" in message


ON_OTHER_SOCS = """
import json, os, sys
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
sys.path.insert(0, os.environ["TESTS_FOLDER"])
from ascend_patch import hostcann
hostcann.load()
import torch, torch_npu
hostcann.attach()
torch.npu.set_device(0)
from ascend_patch.hostcann import _loader
from operators.calls import BUFFER_BYTES, Opapi, T
from operators.violations import ON_LATER_SOCS, VALID
from operators.violations_moe import INT4_GMM
opapi = Opapi(_loader.handle("opapi"), _loader.handle("ascendcl"), torch.empty(BUFFER_BYTES, dtype=torch.uint8).npu())
results = {name: opapi.check(name, {**call, **ON_LATER_SOCS.get(name, {})}) for name, call in VALID.items()}
results["bfloat16"] = opapi.check("aclnnSilu", {"self": T((4,), "bfloat16"), "out": T((4,), "bfloat16")})
QUANT = {"x2": [VALID["aclnnQuantMatmulV5"]["x2"]], "x1Scale": [None], "x2Scale": [T((1,), "float32")],
         "bias": [T((16,), "float32")]}
VALID_310P = VALID["aclnnQuantMatmulWeightNz"]
for name, [value] in QUANT.items():
    results[f"310P {name}"] = opapi.check("aclnnQuantMatmulWeightNz", {**VALID_310P, name: value})
results["unaligned"] = opapi.check("aclnnSwiGlu", {"x": T((4, 34)), "dim": -1, "out": T((4, 17))})
results["empty"] = opapi.check("aclnnSwiGlu", {"x": T((0, 64)), "dim": -1, "out": T((0, 32))})
results["nz"] = opapi.check("aclnnScatterPaKvCache", {**VALID["aclnnScatterPaKvCache"], "cacheMode": "PA_NZ",
                                                      "keyCache": T((4, 4, 16, 16)), "valueCache": T((4, 4, 16, 16))})
results["scales of groups"] = opapi.check("aclnnGroupedMatmulV5", {**VALID["aclnnGroupedMatmulV5"], **INT4_GMM})
print(json.dumps(results))
"""


def results_on(soc: str) -> dict[str, tuple[int, str]]:
    folder = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "HOSTCANN_SOC": soc, "TESTS_FOLDER": str(folder), "PYTHONPATH": str(folder.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", ON_OTHER_SOCS], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: tuple(result) for name, result in json.loads(done.stdout.splitlines()[-1]).items()}  # type: ignore[misc]


def test_310p(tables: dict[str, Any]) -> None:
    results = results_on("Ascend310P3")
    for name, table in tables.items():
        if "310P" in table["families"].split(", "):
            assert results[name] == (0, ""), name
        else:
            assert results[name][0] == INVALID_PARAM
            assert f"{name} does not exist on Ascend310P3; it exists on {table['families']}" in results[name][1]
    assert (
        results["bfloat16"][0] == INVALID_PARAM and "allowed: float32, float16 on Ascend310P3" in results["bfloat16"][1]
    )
    assert (
        results["unaligned"][0] == INVALID_PARAM and "a last dimension aligned to 64 bytes" in results["unaligned"][1]
    )
    assert results["empty"][0] == INVALID_PARAM and "a tensor that is not empty" in results["empty"][1]
    for name, allowed in (
        ("x2", "format FRACTAL_NZ"), ("x1Scale", "present"), ("x2Scale", "float32, one per column"), ("bias", "int32"),
    ):  # fmt: skip
        code, message = results[f"310P {name}"]
        assert code == INVALID_PARAM and f": {name} is " in message and allowed in message, message


def test_950(tables: dict[str, Any]) -> None:
    results = results_on("Ascend950PR_9589")
    for name, table in tables.items():
        assert (results[name][0] == 0) == ("950" in table["families"].split(", ")), name
    assert results["nz"][0] == INVALID_PARAM and 'cacheMode is "PA_NZ"; allowed: "Norm"' in results["nz"][1]
    code, message = results["scales of groups"]
    assert code == INVALID_PARAM and "antiquantScale is" in message and "[groups, columns of out] (source" in message
