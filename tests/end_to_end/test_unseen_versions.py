"""Versions that nobody has seen: the installed vLLM under another number. Contracts decide, not the number alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from ascend_patch.activation import contracts_folder
from ascend_patch.engine.contracts import ContractStore
from ascend_patch.engine.plan import Plan, Selection, Standing
from ascend_patch.engine.planning import make_plan, with_usage
from ascend_patch.engine.sources import SourceTree
from ascend_patch.engine.vocabulary import State
from tests.end_to_end import upstream
from tests.end_to_end.upstream import VERSION, Copy, needed, patches, plan_of

_minor, _micro = Version(VERSION).release[1:3]
NEXT = f"0.{_minor}.{_micro + 1}"
BEYOND = f"0.{Version(ContractStore(contracts_folder()).versions()[-1]).minor + 1}"
LIKE_IT = [f"{VERSION}+empty", f"{NEXT}.dev12+gabc", f"{NEXT}rc1", NEXT]
OUTSIDE = [f"{BEYOND}.0", f"{BEYOND}.0rc1", f"{BEYOND}.1.dev12+gabc", "0.1.dev1+g5e40263c3.empty", "1.0", "0.7.3"]
WARMUP = "vllm.model_executor.warmup.kernel_warmup:kernel_warmup"
INIT_DEVICE = "vllm.v1.worker.gpu_worker:Worker.init_device"
PENALTIES = "vllm.model_executor.layers.utils:apply_penalties"


def plan(version: str, folder: Path | None = None) -> Plan:
    return plan_of(SourceTree.open(folder or upstream.installed(), package="vllm", version=version))


def accepted(found: Plan) -> set[str]:
    return {item.patch.id for item in found.accepted}


@pytest.mark.parametrize("version", LIKE_IT)
def test_what_follows_a_release_is_patched_like_it(version: str) -> None:
    found = plan(version)
    assert accepted(found) == needed()
    assert found.standing == Standing(version) and not found.problems() and not found.warnings()


@pytest.mark.parametrize("version", OUTSIDE)
def test_a_number_outside_all_ranges_is_taken_for_the_release_that_it_is_like(version: str) -> None:
    found = plan(version)
    assert accepted(found) == needed() and found.standing.version == VERSION and not found.problems()
    (warning,) = found.warnings()
    assert warning.startswith(f"vllm {version} is outside the versions these patches name; its sources meet")
    assert f"contracts of {VERSION} best" in warning


@pytest.mark.skipif(Version(VERSION) < Version("0.23"), reason="up to there the slot mapping is computed on the host")
def test_a_development_build_is_taken_for_the_release_that_it_leads_to() -> None:
    found = plan("0.22.2.dev300+gabc")
    assert accepted(found) == needed() and found.standing.version == VERSION and not found.problems()
    assert "is a development build" in found.warnings()[0]


@pytest.mark.skipif(Version(VERSION) < Version("0.29"), reason="the installed one is not far enough away")
def test_a_release_that_is_not_what_its_number_says_is_refused() -> None:
    """A wrong number on a release is believed, and its contracts then show that the sources are others."""
    found = plan("0.13.0+empty")
    assert found.standing.reason == ""
    assert any("attention.paged drifted on vllm 0.13.0+empty: " in line for line in found.problems())


@pytest.mark.parametrize("version", [*LIKE_IT, *OUTSIDE])
def test_what_changed_drifts_under_every_number(version: str, tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.edit(PENALTIES, upstream.more_parameters)
    copy.edit(WARMUP, upstream.renamed)
    found = plan(version, copy.folder)
    drifted = {item.patch.id for item in found if item.state is State.DRIFTED}
    assert drifted == needed() & {"sampling.penalties", "worker.kernel_warmup"}
    assert accepted(found) == needed() - drifted - {
        id for changed in drifted for id in patches().dependents(changed)
    }  # fmt: skip
    (problem,) = found.problems()
    assert problem.startswith(f"required patch worker.kernel_warmup drifted on vllm {version}: {WARMUP}: ")
    (warning,) = [line for line in found.warnings() if "sampling.penalties" in line]
    assert f"drifted on vllm {version}: {PENALTIES}: parameter 'changed_upstream' added since" in warning


def test_a_start_with_an_unseen_version_names_a_subclass_that_escapes_a_patch(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    module = INIT_DEVICE.partition(":")[0]
    copy.write(
        "vllm.v1.worker.added_upstream",
        f"from {module} import Worker\n\nclass Added(Worker):\n    def init_device(self): ...\n",
    )
    store = ContractStore(contracts_folder())
    for version, strict in ((VERSION, False), (NEXT, False), (f"{BEYOND}.0", True)):
        tree = SourceTree.open(copy.folder, package="vllm", version=version)
        found = with_usage(make_plan(patches(), tree, store, Selection(strict=strict)), patches(), tree, store)
        assert accepted(found) == needed()
        named = [line for line in (found.problems() if strict else found.warnings()) if "added_upstream" in line]
        assert [line.partition(" since ")[0] for line in named] == (
            []  # a known version: nobody looks
            if version == VERSION
            else [f"patch worker.init_device: {INIT_DEVICE}: vllm.v1.worker.added_upstream:Added overrides it"]
        )


def test_another_package_of_that_name_is_not_patched(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    for version in (f"{BEYOND}.0", VERSION):
        found = plan(version, tmp_path)
        assert not found.accepted and found.problems()
