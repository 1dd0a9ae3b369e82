"""Coupled data-parallel ranks, each an engine in a worker of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.end_to_end.server import free_port
from tests.end_to_end.worker import Worker


class Ranks:
    """Two processes with an engine each, as vLLM documents offline data parallelism."""

    def __init__(self, folder: Path, **environment: str) -> None:
        port = str(free_port())
        self.workers = [
            Worker(
                folder / f"rank{rank}.log",
                XDG_RUNTIME_DIR=str(folder),
                VLLM_DP_SIZE="2",
                VLLM_DP_RANK=str(rank),
                VLLM_DP_RANK_LOCAL=str(rank),
                VLLM_DP_MASTER_IP="127.0.0.1",
                VLLM_DP_MASTER_PORT=port,
                **environment,
            )
            for rank in range(2)
        ]

    def call(self, function: str, each: tuple[dict[str, Any], dict[str, Any]], **arguments: Any) -> list[Any]:
        """What both answered to a call at the same time; `each` has the arguments that differ."""

        def one(rank: int) -> Any:
            return self.workers[rank].call(function, **arguments, **each[rank])

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(one, range(2)))

    def close(self) -> None:
        with ThreadPoolExecutor(2) as threads:
            codes = list(threads.map(Worker.close, self.workers))
        for worker, code in zip(self.workers, codes, strict=True):
            assert code == 0, worker.log_tail()
            assert worker.complaints() == []
