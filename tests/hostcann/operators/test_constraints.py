"""Every row of every constraint table, violated once: the code, and a message with value, limit and source."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .calls import BUFFER_BYTES, SIGNATURES, Opapi, T
from .violations import INVALID, VALID
from .violations_socs import INVALID_ON, SOCS

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
from operators.violations_socs import INVALID_ON
opapi = Opapi(_loader.handle("opapi"), _loader.handle("ascendcl"), torch.empty(BUFFER_BYTES, dtype=torch.uint8).npu())
start = {name: {**call, **ON_LATER_SOCS.get(name, {})} for name, call in VALID.items()}
accepted = {name: opapi.check(name, call) for name, call in start.items()}
violated = {name: [opapi.check(name, {**start[name], **change}) for _, change in bad]
            for name, bad in INVALID_ON[sys.argv[1]].items()}
bfloat16 = opapi.check("aclnnSilu", {"self": T((4,), "bfloat16"), "out": T((4,), "bfloat16")})
print(json.dumps({"accepted": accepted, "violated": violated, "bfloat16": bfloat16}))
"""


@cache
def results_on(family: str) -> dict[str, Any]:
    """Codes and messages on a SoC of this family."""
    folder = Path(__file__).resolve().parent.parent
    environment = {
        **os.environ,
        "HOSTCANN_SOC": SOCS[family],
        "TESTS_FOLDER": str(folder),
        "PYTHONPATH": str(folder.parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", ON_OTHER_SOCS, family], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("family", SOCS)
def test_other_socs_have_these_operators(family: str, tables: dict[str, Any]) -> None:
    results = results_on(family)["accepted"]
    for name, table in tables.items():
        code, message = results[name]
        if family in table["families"].split(", "):
            assert (code, message) == (0, ""), name
        else:
            assert code == INVALID_PARAM
            assert f"{name} does not exist on {SOCS[family]}; it exists on {table['families']}" in message


def test_310p_has_no_bfloat16() -> None:
    code, message = results_on("310P")["bfloat16"]
    assert code == INVALID_PARAM and "allowed: float32, float16 on Ascend310P3" in message


@pytest.mark.parametrize("family", SOCS)
def test_a_violated_rule_of_other_socs(family: str, tables: dict[str, Any]) -> None:
    for operator, results in results_on(family)["violated"].items():
        for (argument, _), (code, message) in zip(INVALID_ON[family][operator], results, strict=True):
            rule = rule_of(tables[operator], message)
            assert (rule["argument"], rule["code"]) == (argument, code) and operator in message


def test_no_rule_of_other_socs_is_left_out(tables: dict[str, Any]) -> None:
    for operator, table in tables.items():
        for rule in table["rules"]:
            families = rule["families"].split(", ")
            if "910B" in families:
                continue
            assert set(families) & set(SOCS), f"no SoC of {families} is tested: {rule}"
            for family in set(families) & set(SOCS) & set(table["families"].split(", ")):
                messages = [message for _, message in results_on(family)["violated"].get(operator, [])]
                assert rule in [rule_of(table, message) for message in messages], (operator, family, rule)
