"""What one launch of an AscendC kernel costs on the host, in microseconds, by launcher and by state of the task queue.

    python benchmarks/kernel_launch.py

hostcann computes nothing here (null mode), so what is left is Python, ctypes or C++, torch-npu's queue, and hostcann's
own bookkeeping in the place of CANN's. The kernel is compute_slot_mapping: nine parameters, four of them tensors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

CALLS = 5000
ROUNDS = 7
QUEUED_BEFORE = 8
"""Operators in the queue before each launch of the busy case: about what one decoder layer queues."""


def main() -> None:
    """Measures in one process per setting of the queue and prints a table."""
    print(f"{'task queue':24} {'launcher':28} {'us per launch':>13}")
    for level in ("0", "1"):
        environment = {
            **os.environ,
            "TASK_QUEUE_ENABLE": level,
            "HOSTCANN_COMPUTE": "null",
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        }
        done = subprocess.run(
            [sys.executable, __file__, "worker"], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        for queue, launcher, microseconds in json.loads(done.stdout.splitlines()[-1]):
            print(f"{queue:24} {launcher:28} {microseconds:13.1f}")


def best(call: Callable[[], object], settle: Callable[[], object]) -> float:
    """The fastest of several rounds: others use the machine too."""
    rounds = []
    for _ in range(ROUNDS):
        settle()
        begun = perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append((perf_counter() - begun) / CALLS * 1e6)
    settle()
    return min(rounds)


def behind_operators(operator: Callable[[], object], call: Callable[[], object], settle: Callable[[], object]) -> float:
    """Time in `call` alone when operators were queued just before; the median, as each call is timed by itself."""
    times = []
    for _ in range(400):
        settle()
        for _ in range(QUEUED_BEFORE):
            operator()
        begun = perf_counter()
        call()
        times.append((perf_counter() - begun) * 1e6)
    settle()
    return sorted(times)[len(times) // 2]


def worker() -> None:
    """The measurements for one setting of the queue, as JSON on the last line."""
    from ascend_patch import hostcann

    hostcann.load()
    import torch
    import torch_npu

    hostcann.attach()
    torch.npu.set_device(0)
    from ascend_patch.kernels.compute_slot_mapping import check, compute_slot_mapping, launch, reference
    from ascend_patch.kernels.loading import launching, queue

    tokens, blocks = 64, 128
    arguments: Any = (
        torch.arange(tokens + 1, dtype=torch.int32, device="npu"),
        torch.zeros(tokens, dtype=torch.int64, device="npu"),
        torch.zeros(tokens, blocks, dtype=torch.int32, device="npu"),
        16,
        torch.empty(tokens, dtype=torch.int64, device="npu"),
    )
    x = torch.zeros(64, 1024, device="npu")
    settle = torch.npu.synchronize
    launch(*arguments)
    key, plan = next(iter(launching._plans.items()))
    enabled = queue.queue_enabled()
    rows: list[tuple[str, str, float]] = []
    ways = [("Python (ctypes)", queue.direct), ("C++ into the queue", queue.queued)] if enabled else []
    for name, way in ways or [("Python (ctypes)", queue.direct)]:
        launching._plans[key] = plan._replace(launch=way())
        state = "on, idle or filling" if enabled else "off"
        rows.append((state, name, best(lambda: launch(*arguments), settle)))
        if enabled:
            spent = behind_operators(lambda: torch_npu.npu_swiglu(x), lambda: launch(*arguments), settle)
            rows.append((f"on, {QUEUED_BEFORE} operators waiting", name, spent))
    launching._plans[key] = plan
    state = "on" if enabled else "off"
    rows.append((state, "with argument checks", best(lambda: (check(*arguments), launch(*arguments)), settle)))
    rows.append((state, "as torch operator", best(lambda: compute_slot_mapping(*arguments), settle)))
    if not enabled:
        rows.append((state, "PyTorch reference instead", best(lambda: reference(*arguments), settle)))
    print(json.dumps(rows))


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["worker"] else main()
