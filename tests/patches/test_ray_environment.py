"""What goes to Ray's workers."""

from __future__ import annotations

import pytest

from ascend_patch.patches.comms import ray_environment


def test_the_overlays_variables_are_there_when_a_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ASCEND_PATCH_DISABLE", "ops.rms_norm")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    found = ray_environment.add_variables({"env_vars": {"NAME": "value"}, "nsight": "default"})
    assert found["nsight"] == "default"
    assert found["env_vars"]["NAME"] == "value"
    assert found["env_vars"]["VLLM_ASCEND_PATCH_DISABLE"] == "ops.rms_norm"
    assert "SOMETHING_ELSE" not in found["env_vars"]


def test_what_the_user_gave_to_the_cluster_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_PATCH_DEVICE", "npu")
    found = ray_environment.add_variables({"env_vars": {"ASCEND_PATCH_DEVICE": "host"}})["env_vars"]
    assert found["ASCEND_PATCH_DEVICE"] == "host"


def test_arguments_of_an_actor_are_not_changed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ASCEND_AUTOPATCH", "1")
    given = {"env_vars": {"NAME": "value"}}
    seen: dict[str, object] = {}
    ray_environment.with_our_variables(lambda self, group, **options: seen.update(options))(
        None, None, runtime_env=given
    )
    assert given == {"env_vars": {"NAME": "value"}}
    assert seen["runtime_env"]["env_vars"]["VLLM_ASCEND_AUTOPATCH"] == "1"  # type: ignore[index]


def test_a_nodes_own_variables_stay_on_it() -> None:
    excluded: set[str] = set()
    wrapped = ray_environment.without_what_is_a_nodes_own(lambda names: excluded.update(names) or {})
    wrapped({"VLLM_HOST_IP"})
    assert {"VLLM_HOST_IP", "ASCEND_RT_VISIBLE_DEVICES", "HCCL_IF_IP"} <= excluded


def test_workers_see_all_npus_of_their_node() -> None:
    found = ray_environment.add_variables({})["env_vars"]
    assert found["RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES"] == "1"
