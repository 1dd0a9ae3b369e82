"""Functions that run inside a worker process and look at an engine's memory; see `engine_functions`."""

from __future__ import annotations

from typing import Any

from tests.end_to_end.engine_functions import ENGINES


def free_memory() -> int:
    """Bytes that the device has left."""
    import torch

    return int(torch.npu.mem_get_info()[0])


def sleep(name: str, level: int) -> None:
    """Put an engine to sleep."""
    ENGINES[name].sleep(level=level)


def wake_up(name: str, tags: list[str] | None = None) -> None:
    """Wake an engine up, or what of it has these tags."""
    ENGINES[name].wake_up(tags)


def reload_weights(name: str) -> None:
    """Read the weights from the checkpoint again, as RL trainers do after a deep sleep."""
    ENGINES[name].collective_rpc("reload_weights")


def weight_addresses(name: str) -> Any:
    """Where the parameters are."""

    def run(worker: Any) -> Any:
        return [parameter.data_ptr() for parameter in worker.model_runner.model.parameters()]

    return ENGINES[name].collective_rpc(run)[0]
