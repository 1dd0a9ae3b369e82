"""What a Ray worker's process must know before it imports vLLM, and what it must not inherit from the driver."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ascend_patch.engine.vocabulary import Expiry, Patch, Variant, Wrap

_COMPILED_GRAPH = "vllm.v1.executor.ray_executor:RayDistributedExecutor"
_MESSAGE_QUEUES = "vllm.v1.executor.ray_executor_v2:RayExecutorV2"
_DRIVER = "vllm.v1.executor.ray_env_utils:get_driver_env_vars"

_ACTORS = Wrap(f"{_COMPILED_GRAPH}._init_workers_ray", by=":with_our_variables")
_RUNTIME = Wrap(f"{_MESSAGE_QUEUES}._build_runtime_env", by=":and_our_variables")
_NODE = Wrap(_DRIVER, by=":without_what_is_a_nodes_own")
_ENGINES = Wrap("vllm.ray.ray_env:get_env_vars_to_copy", by=":and_our_names")

OURS = ("VLLM_ASCEND_", "ASCEND_PATCH_", "HOSTCANN_")
"""Beginnings of the names that decide, at the start of a process, whether and how the overlay works in it."""

OF_A_NODE = frozenset({"ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES", "HCCL_IF_IP", "HCCL_IF_BASE_PORT"})
"""What each node sets for itself: the NPUs that it shows (by their numbers there) and its address for HCCL."""

# Workers take their device by its place among all that the node shows. Ray would show each worker its own alone, which
# CANN remembers from the import of torch-npu on; vLLM tells it not to, from 0.16 on.
_LEAVE_DEVICES = {"RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "1"}

PATCH = Patch(
    id="comms.ray_environment",
    why="Ray's workers import vLLM before it sends them the driver's variables: on a cluster that was started without "
    "the overlay's, they would look for CUDA. The driver's visible NPUs and HCCL address would reach every node.",
    requires=("platform.npu",),
    variants=(
        Variant(versions=">=0.13.0,<0.20", rewrites=(_ACTORS, _ENGINES)),
        Variant(versions=">=0.20.0,<0.33", rewrites=(_ACTORS, _ENGINES, _RUNTIME, _NODE)),
        Variant(versions=">=0.33.0,<0.34", rewrites=(_ENGINES, _RUNTIME, _NODE)),
    ),
    upstream="vllm/v1/executor/ray_env_utils.py, ray_executor_v2.py; "
    "ray/_private/accelerators/npu.py names the NPUs of a node",
    unnecessary_when="vLLM's Ray executors pass the platform's additional_env_vars on before the import, and leave its "
    "device_control_env_var to the node.",
    expires=(
        Expiry("vllm.v1.executor.ray_env_utils:update_runtime_env_for_worker_import", mentions="additional_env_vars"),
    ),
)


def variables() -> dict[str, str]:
    """The overlay's part of this process's environment."""
    return {name: value for name, value in os.environ.items() if name.startswith(OURS)}


def add_variables(runtime_env: dict[str, Any]) -> dict[str, Any]:
    """`runtime_env` with what Ray must set before a worker's Python starts: the overlay's variables, and one of Ray's.

    A value that is already there wins: the user gave it to this cluster.
    """
    runtime_env["env_vars"] = {**_LEAVE_DEVICES, **variables(), **runtime_env.get("env_vars", {})}
    return runtime_env


def with_our_variables(original: Callable[..., None]) -> Callable[..., None]:
    """For the executor with a compiled graph, whose workers are actors made with these arguments."""

    def _init_workers_ray(self: Any, placement_group: Any, **ray_remote_kwargs: Any) -> None:
        ray_remote_kwargs["runtime_env"] = add_variables(dict(ray_remote_kwargs.get("runtime_env") or {}))
        original(self, placement_group, **ray_remote_kwargs)

    return _init_workers_ray


def and_our_variables(original: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """For the executor with message queues."""

    def _build_runtime_env(self: Any) -> dict[str, Any]:
        return add_variables(original(self))

    return _build_runtime_env


def and_our_names(original: Callable[..., set[str]]) -> Callable[..., set[str]]:
    """For data-parallel engines that are actors: unpickling their configuration imports vLLM already."""

    def get_env_vars_to_copy(
        exclude_vars: set[str] | None = None,
        additional_vars: set[str] | None = None,
        destination: str | None = None,
    ) -> set[str]:
        return original(exclude_vars, {*(additional_vars or ()), *variables()}, destination)

    return get_env_vars_to_copy


def without_what_is_a_nodes_own(original: Callable[[set[str]], dict[str, str]]) -> Callable[[set[str]], dict[str, str]]:
    """The driver's environment for all workers, without what only its own node may have."""

    def get_driver_env_vars(worker_specific_vars: set[str]) -> dict[str, str]:
        return original(worker_specific_vars | OF_A_NODE)

    return get_driver_env_vars
